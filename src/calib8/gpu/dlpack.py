"""DLPack: arrays of another library, and ours for it, without a copy.

Follows the DLPack C API 0.8 and "Python Specification for DLPack" (dmlc.github.io/dlpack): a capsule named ``dltensor``
holds a ``DLManagedTensor``, whose ``deleter`` whoever takes it calls once.
"""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import numpy as np

from calib8.errors import DataError

CUDA, CUDA_MANAGED = 2, 13
NAME = b"dltensor"
#: DLPack's codes of NumPy's kinds of numbers.
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


class DLTensor(ctypes.Structure):
    """``strides`` count elements and may be null; the data begins ``byte_offset`` after ``data``."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensor(ctypes.Structure):
    """A tensor and how to give it back."""

    _fields_: ClassVar = [("tensor", DLTensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


# Prototypes of our own: the argument types of `ctypes.pythonapi.PyCapsule_…` are one setting for the whole process, and
# other libraries set them too.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)

#: What other libraries hold of ours: the address of its ``DLManagedTensor`` -> all that must stay alive for it.
_given: dict[int, tuple[Any, ...]] = {}


def read(capsule: object) -> tuple[int, tuple[int, ...], tuple[int, ...] | None, np.dtype[np.generic]]:
    """Address, shape, strides in elements and dtype of a capsule's tensor, which lives as long as the capsule.

    Raises ``DataError`` for a dtype that NumPy does not have.
    """
    tensor = DLManagedTensor.from_address(_pointer(id(capsule), NAME)).tensor
    kind = next((kind for kind, code in CODES.items() if code == tensor.code), None)
    if kind is None or tensor.lanes != 1:
        raise DataError(f"a DLPack dtype of code {tensor.code} with {tensor.bits} bits is none that engines take.")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    return address, shape, strides, np.dtype(f"{kind}{tensor.bits // 8}")


def capsule_of(address: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], index: int, owner: object) -> Any:
    """A capsule for a C-contiguous array on GPU ``index``; ``owner`` stays alive until the taker gives it back."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = DLManagedTensor()
    managed.tensor = DLTensor(
        data=address,
        device_type=CUDA,
        device_id=index,
        ndim=len(shape),
        code=CODES[dtype.kind],
        bits=dtype.itemsize * 8,
        lanes=1,
        shape=ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)),
    )
    managed.deleter = ctypes.cast(_DELETER, ctypes.c_void_p)
    _given[ctypes.addressof(managed)] = (managed, sizes, owner)
    return _new_capsule(ctypes.addressof(managed), NAME, ctypes.cast(_DESTRUCTOR, ctypes.c_void_p))


def _give_back(managed: int) -> None:
    """The deleter: called by whoever took the tensor, on any thread."""
    _given.pop(managed, None)


def _drop(capsule: int) -> None:
    """Called when a capsule dies: nobody took the tensor if it still has its first name."""
    if _is_valid(capsule, NAME):
        _give_back(_pointer(capsule, NAME))


# They live as long as the process: other libraries call them whenever they let go.
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DELETER, _DESTRUCTOR = _CALLBACK(_give_back), _CALLBACK(_drop)
