"""One GPU through cuda-python: a stream, memory, copies. Nothing else in calib8 calls CUDA.

cuda-python is imported when a ``Device`` is made. Its functions answer ``(status, *values)``; every status is looked
at, and anything but success becomes one ``SetupError`` with CUDA's own text.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import SetupError

INSTALL = "Install it: pip install cuda-python."
LOOK = "Check the GPU and its driver with nvidia-smi."


class Device:
    """A GPU of compute capability ``target`` (``sm86``; None takes the first GPU) and one stream on it.

    Addresses are plain integers. Everything is asynchronous on the stream but ``synchronise``, ``malloc`` and
    ``free``. Raises ``SetupError`` if cuda-python is missing, if no GPU is such a one, and whenever a CUDA call fails.
    """

    def __init__(self, target: str | None = None) -> None:
        self._cuda = _cuda_runtime()
        self._failed = False
        self.name = "this machine"
        self._index, self.name = self._find(target)
        self.use()
        (stream,) = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._stream: Any = stream
        #: The stream as the number that TensorRT takes.
        self.stream = int(stream)

    def use(self) -> None:
        """Make this GPU the calling thread's current one: CUDA keeps that per thread."""
        self._call("cudaSetDevice", self._index)

    def malloc(self, size: int) -> int:
        """The address of ``size`` bytes, at least 1. Raises ``SetupError`` if they are not free."""
        status, address = self._cuda.cudaMalloc(size)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise self._error(
                f"allocating {size:,} bytes", status, f"{self.free_bytes():,} bytes are free. Use smaller batches."
            )
        return int(address)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._release("cudaFree", address)

    def copy_in(self, address: int, array: NDArray[np.generic]) -> None:
        """Enqueue host -> GPU. ``array`` is C-contiguous and must stay alive until ``synchronise``."""
        self._copy(address, _host(array), array.nbytes, "cudaMemcpyHostToDevice")

    def copy_out(self, array: NDArray[np.generic], address: int) -> None:
        """Enqueue GPU -> host. ``array`` is C-contiguous and must stay alive until ``synchronise``."""
        self._copy(_host(array), address, array.nbytes, "cudaMemcpyDeviceToHost")

    def synchronise(self) -> None:
        """Wait for everything that was enqueued. Errors of kernels and copies show up here."""
        self._call("cudaStreamSynchronize", self._stream)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        free, _total = self._call("cudaMemGetInfo")
        return int(free)

    def close(self) -> None:
        """Destroy the stream. Calling it twice is fine."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._release("cudaStreamDestroy", stream)

    def _find(self, target: str | None) -> tuple[int, str]:
        """Index and name of the first GPU of this capability."""
        (count,) = self._call("cudaGetDeviceCount")
        found = []
        for index in range(count):
            (properties,) = self._call("cudaGetDeviceProperties", index)
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
        self._call("cudaMemcpyAsync", to, source, size, getattr(self._cuda.cudaMemcpyKind, kind), self._stream)

    def _call(self, function: str, *arguments: Any) -> list[Any]:
        answer: tuple[Any, ...] = getattr(self._cuda, function)(*arguments)
        status, *values = answer
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise self._error(function, status)
        return values

    def _release(self, function: str, argument: Any) -> None:
        """Like ``_call``, but silent after a failure was reported: a broken CUDA context answers it to every call."""
        (status,) = getattr(self._cuda, function)(argument)
        if status != self._cuda.cudaError_t.cudaSuccess and not self._failed:
            raise self._error(function, status)

    def _error(self, doing: str, status: Any, advice: str = LOOK) -> SetupError:
        self._failed = True
        self._cuda.cudaGetLastError()  # it is remembered, and the next library that asks would take it for its own
        _, text = self._cuda.cudaGetErrorString(status)
        return SetupError(f"CUDA: {doing} failed on {self.name}: {text.decode('utf-8', 'replace')}. {advice}")


class Buffers:
    """Named device memory, reused from call to call: a buffer grows when more is wanted and never shrinks."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: dict[str, tuple[int, int]] = {}

    def room(self, name: str, size: int) -> int:
        """The address of at least ``size`` bytes (one, for an empty tensor: TensorRT takes no null pointer).

        What the buffer held is lost when it grows: the old memory is freed first, so that never both are taken.
        Raises ``SetupError`` if the memory is not free; the buffer is then gone, the others stay.
        """
        size = max(size, 1)
        address, held = self._held.get(name, (0, 0))
        if size > held:
            self._free(name)
            address = self._device.malloc(size)
            self._held[name] = (address, size)
        return address

    def close(self) -> None:
        """Free all of it. Calling it twice is fine."""
        with ExitStack() as each:  # one that fails does not keep the others from being freed
            for name in list(self._held):
                each.callback(self._free, name)

    def _free(self, name: str) -> None:
        address, _ = self._held.pop(name, (None, 0))
        if address is not None:
            self._device.free(address)


def _cuda_runtime() -> Any:
    """``cuda.bindings.runtime``, which has no type stubs: ``Any`` ends in this file."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: a shared library is missing
        raise SetupError(f"cuda-python is not usable on this machine ({error}). {INSTALL}") from error


def _host(array: NDArray[np.generic]) -> int:
    assert array.flags.c_contiguous
    return int(array.ctypes.data)
