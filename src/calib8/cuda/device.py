"""One GPU and one stream on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.cuda.calls import Calls
from calib8.errors import SetupError


class Device:
    """A GPU of compute capability ``target`` (``sm86``; None takes the first GPU) and one stream on it.

    Addresses are plain integers. Everything is asynchronous on the stream but ``synchronise``, ``malloc`` and
    ``free``. Raises ``SetupError`` if cuda-python is missing, if no GPU is such a one, and whenever a CUDA call fails.
    """

    def __init__(self, target: str | None = None) -> None:
        self.call = Calls()
        #: CUDA's number of the GPU, and the GPU's name.
        self.index, self.name = self._find(target)
        self.call.place = self.name
        self.use()
        (stream,) = self.call("cudaStreamCreateWithFlags", self.call.api.cudaStreamNonBlocking)
        self._stream: Any = stream
        #: The stream as the number that TensorRT takes.
        self.stream = int(stream)

    def use(self) -> None:
        """Make this GPU the calling thread's current one: CUDA keeps that per thread."""
        self.call("cudaSetDevice", self.index)

    def malloc(self, size: int) -> int:
        """The address of ``size`` bytes, at least 1. Raises ``SetupError`` if they are not free."""
        status, values = self.call.status("cudaMalloc", size)
        if status != self.call.api.cudaError_t.cudaSuccess:
            room = f"{self.free_bytes():,} bytes are free. Use smaller batches."
            raise self.call.error(f"allocating {size:,} bytes failed", status, room)
        return int(values[0])

    def free(self, address: int) -> None:
        """Give memory back."""
        self.call.release("cudaFree", address)

    def copy_in(self, address: int, array: NDArray[np.generic]) -> None:
        """Enqueue host -> GPU. ``array`` is C-contiguous and must stay alive until ``synchronise``."""
        self._copy(address, _host(array), array.nbytes, "cudaMemcpyHostToDevice")

    def copy_out(self, array: NDArray[np.generic], address: int) -> None:
        """Enqueue GPU -> host. ``array`` is C-contiguous and must stay alive until ``synchronise``."""
        self._copy(_host(array), address, array.nbytes, "cudaMemcpyDeviceToHost")

    def synchronise(self) -> None:
        """Wait for everything that was enqueued. Errors of kernels and copies show up here."""
        self.call("cudaStreamSynchronize", self._stream)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        free, _total = self.call("cudaMemGetInfo")
        return int(free)

    def close(self) -> None:
        """Destroy the stream. Calling it twice is fine."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self.call.release("cudaStreamDestroy", stream)

    def _find(self, target: str | None) -> tuple[int, str]:
        """Index and name of the first GPU of this capability."""
        (count,) = self.call("cudaGetDeviceCount")
        found = []
        for index in range(count):
            (properties,) = self.call("cudaGetDeviceProperties", index)
            name = properties.name.decode("utf-8", "replace")
            capability = f"sm{properties.major}{properties.minor}"
            if target in (None, capability):
                return index, name
            found.append(f"{name} ({capability})")
        raise SetupError(
            f"no GPU that CUDA shows is {target or 'there'}; it shows {', '.join(found) or 'none'}. "
            "Check CUDA_VISIBLE_DEVICES."
        )

    def _copy(self, to: int, source: int, size: int, kind: str) -> None:
        self.call("cudaMemcpyAsync", to, source, size, getattr(self.call.api.cudaMemcpyKind, kind), self._stream)


def _host(array: NDArray[np.generic]) -> int:
    assert array.flags.c_contiguous
    return int(array.ctypes.data)
