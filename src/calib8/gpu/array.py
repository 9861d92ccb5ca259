"""Arrays that lie on the GPU: ours for others, and others' for us."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError, SetupError
from calib8.gpu import dlpack
from calib8.gpu.device import Device


class GpuMemory:
    """Memory on the GPU that is freed when nobody holds this object any more, ``__dlpack__`` of others included.

    CUDA waits for all work on the GPU before it frees, so a reader that is still under way reads the right data.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.address = device.malloc(max(size, 1))
        weakref.finalize(self, _free, device, self.address).atexit = False  # the process takes CUDA with it


class GpuArray:
    """A finished, C-contiguous output [*shape] on GPU ``device_index``, for any library that reads GPU arrays.

    PyTorch takes it with ``torch.from_dlpack(array)``, CuPy with ``cupy.asarray(array)``, neither copies. The memory is
    freed when the array and all that was made of it are gone; ``release`` lets go of the array's own share at once.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self.shape, self.dtype = shape, dtype
        self.device_index = device.index
        self._device = device
        self._memory: GpuMemory | None = GpuMemory(device, self.nbytes)

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def address(self) -> int:
        """Where the data begins. Raises ``SetupError`` after ``release``."""
        return self._held().address

    def numpy(self) -> NDArray[np.generic]:
        """A copy on the host."""
        array = np.empty(self.shape, self.dtype)
        address = self.address
        with self._device.active():
            stream = self._device.beside()
            try:
                stream.copy_out(array, address)
                stream.synchronise()
            finally:
                stream.close()
        return array

    def release(self) -> None:
        """Let go of the memory; what other libraries made of it stays good. Calling it twice is fine."""
        self._memory = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. ``stream`` is None: the data is there, nobody has to wait."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device_index

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of the form that every version reads; no ``stream`` has to wait."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("an output of an engine is handed out where it lies. Copy it afterwards, or use numpy().")
        return dlpack.capsule_of(self.address, self.shape, self.dtype, self.device_index, self._held())

    def _held(self) -> GpuMemory:
        if self._memory is None:
            raise SetupError("this GPU array was released. Run the engine again, or release it later.")
        return self._memory


@dataclass(frozen=True)
class GpuView:
    """Another library's C-contiguous array on our GPU; ``owner`` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    owner: object

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def lies_on_gpu(array: object) -> bool:
    """Does an array of whatever library lie in GPU memory?"""
    if callable(where := getattr(array, "__dlpack_device__", None)):
        return bool(where()[0] in (dlpack.CUDA, dlpack.CUDA_MANAGED))
    return hasattr(array, "__cuda_array_interface__")


def view_of(name: str, array: Any, device: Device) -> GpuView:
    """``array`` as it lies on the GPU, without a copy; ``device``'s stream waits until its owner has written it.

    Through DLPack the owner is told our stream and lets it wait. Through ``__cuda_array_interface__`` it names its own
    (version 3); one that names none, as before version 3, is taken to write on CUDA's default stream.
    Raises ``DataError`` if the array is not C-contiguous, lies on another GPU or its library does not hand it out.
    """
    if hasattr(array, "__dlpack_device__"):
        try:
            owner = array.__dlpack__(stream=device.stream)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{name} on the GPU could not be taken: {error}.") from error
        address, shape, strides, dtype = dlpack.read(owner)
    else:
        interface, owner = array.__cuda_array_interface__, array
        address, shape, dtype = interface["data"][0], tuple(interface["shape"]), np.dtype(interface["typestr"])
        given = interface.get("strides")
        strides = None if given is None else tuple(stride // dtype.itemsize for stride in given)
        if (stream := interface.get("stream", 1)) is not None:
            device.wait_for(stream)
    if not _contiguous(shape, strides):
        raise DataError(
            f"{name} on the GPU is not C-contiguous, and engines read nothing else. Make it: .contiguous()."
        )
    if math.prod(shape) and not device.holds(address):
        raise DataError(f"{name} does not lie on {device.name}, where the engine runs. Move it there.")
    return GpuView(address, shape, dtype, owner)


def _contiguous(shape: Sequence[int], strides: Sequence[int] | None) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _free(device: Device, address: int) -> None:
    """Whatever CUDA answers: nobody is there to be told."""
    device.call.status("cudaFree", address)
