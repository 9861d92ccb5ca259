"""DLPack capsules through ctypes."""

import ctypes

import numpy as np
import pytest

from calib8.gpu import dlpack


def test_another_library_may_set_the_types_of_pythons_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Triton's client does: those of ``ctypes.pythonapi`` hold for the whole process."""
    for function in (ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_IsValid):
        monkeypatch.setattr(function, "argtypes", [ctypes.py_object, ctypes.c_char_p])
    capsule = dlpack.capsule_of(4096, (2, 3), np.dtype(np.float32), 1, owner=object())
    assert dlpack.read(capsule) == (4096, (2, 3), None, np.dtype(np.float32))
    del capsule
    assert dlpack._given == {}
