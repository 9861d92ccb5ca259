"""Named memory that is reused: on the GPU, or pinned on the host."""

import ctypes
import math
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from calib8.gpu.device import Device


class Buffers:
    """Named memory, reused from call to call: a buffer grows when more is wanted and never shrinks.

    ``pinned`` memory is the host's: the GPU copies it while the CPU does something else, and faster than other memory.
    """

    def __init__(self, device: Device, *, pinned: bool = False) -> None:
        self._malloc, self._release = (device.malloc_host, device.free_host) if pinned else (device.malloc, device.free)
        self._held: dict[str, tuple[int, int]] = {}
        #: How often a buffer grew: addresses that were handed out are good as long as this stays.
        self.moves = 0

    def room(self, name: str, size: int) -> int:
        """The address of at least ``size`` bytes (one, for an empty tensor: TensorRT takes no null pointer).

        What the buffer held is lost when it grows: the old memory is freed first, so that never both are taken.
        Raises ``SetupError`` if the memory is not free; the buffer is then gone, the others stay.
        """
        size = max(size, 1)
        address, held = self._held.get(name, (0, 0))
        if size > held:
            self.moves += 1
            self._free(name)
            address = self._malloc(size)
            self._held[name] = (address, size)
        return address

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """The start of a pinned buffer as an array [*shape]: what was in it, until the buffer grows or is closed."""
        size = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_ubyte * size).from_address(self.room(name, size))
        return np.ndarray(shape, dtype, memoryview(memory))

    def close(self) -> None:
        """Free all of it. Calling it twice is fine."""
        with ExitStack() as each:  # one that fails does not keep the others from being freed
            for name in list(self._held):
                each.callback(self._free, name)

    def _free(self, name: str) -> None:
        address, _ = self._held.pop(name, (None, 0))
        if address is not None:
            self._release(address)
