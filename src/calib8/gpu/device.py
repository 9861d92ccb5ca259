"""One GPU and one stream on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.errors import SetupError
from calib8.gpu.calls import Calls


class Device:
    """A GPU of compute capability ``target`` (``sm86``; None takes any) and one stream on it.

    It is CUDA's number ``number``; without one the first that is called ``name``, if there is such, else the first.
    The calling thread's current GPU stays what it was.

    Addresses are plain integers. Everything is asynchronous on the stream but ``synchronise`` and what allocates and
    frees. Raises ``SetupError`` if cuda-python is missing, if no GPU is such a one, and whenever a CUDA call fails.
    """

    def __init__(self, target: str | None = None, *, number: int | None = None, name: str | None = None) -> None:
        self.call = Calls()
        #: CUDA's number of the GPU, and the GPU's name.
        self.index, self.name = self._find(target, number, name)
        self.call.place = self.name
        with self.active():
            self._stream: Any = self._new_stream()
        #: The stream as the number that TensorRT takes.
        self.stream = int(self._stream)

    def beside(self) -> Device:
        """The same GPU with a stream of its own, to be closed on its own."""
        other = copy.copy(self)
        other._stream = other._new_stream()
        other.stream = int(other._stream)
        return other

    def use(self) -> None:
        """Make this GPU the calling thread's current one: CUDA keeps that per thread."""
        self.call("cudaSetDevice", self.index)

    @contextmanager
    def active(self, *, closing: bool = False) -> Iterator[None]:
        """``use`` for a while: afterwards the thread is back on the GPU that its owner had chosen.

        ``closing`` is for giving things back, which is silent after a failure was told.
        """
        choose = self.call.release if closing else self.call
        _, (before,) = self.call.status("cudaGetDevice")
        choose("cudaSetDevice", self.index)
        try:
            yield
        finally:
            if before not in (None, self.index):
                choose("cudaSetDevice", before)

    def malloc(self, size: int) -> int:
        """The address of ``size`` bytes, at least 1. Raises ``SetupError`` if they are not free."""
        status, values = self.call.status("cudaMalloc", size)
        if status != self.call.success:
            room = f"{self.free_bytes():,} bytes are free. Use smaller batches."
            raise self.call.error(f"allocating {size:,} bytes failed", status, room)
        return int(values[0])

    def free(self, address: int) -> None:
        """Give memory back; CUDA waits for everything on the GPU first."""
        self.call.release("cudaFree", address)

    def malloc_host(self, size: int) -> int:
        """The address of ``size`` bytes of pinned host memory, which the GPU copies to and from by itself."""
        status, values = self.call.status("cudaHostAlloc", size, self.call.api.cudaHostAllocDefault)
        if status != self.call.success:
            advice = "Use smaller batches, or raise the limit of locked memory (ulimit -l)."
            raise self.call.error(f"pinning {size:,} bytes of host memory failed", status, advice)
        return int(values[0])

    def free_host(self, address: int) -> None:
        """Give pinned memory back."""
        self.call.release("cudaFreeHost", address)

    def copy_in(self, address: int, array: NDArray[np.generic]) -> None:
        """Enqueue host -> GPU. ``array`` is C-contiguous and must stay alive until ``synchronise``."""
        self._copy(address, _host(array), array.nbytes, "cudaMemcpyHostToDevice")

    def copy_out(self, array: NDArray[np.generic], address: int) -> None:
        """Enqueue GPU -> host. ``array`` is C-contiguous and must stay alive until ``synchronise``."""
        self._copy(_host(array), address, array.nbytes, "cudaMemcpyDeviceToHost")

    def copy_across(self, to: int, source: int, size: int) -> None:
        """Enqueue GPU -> GPU."""
        self._copy(to, source, size, "cudaMemcpyDeviceToDevice")

    def wait_for(self, stream: int) -> None:
        """Let what is enqueued from now on wait for what ``stream`` holds now (1 and 2: CUDA's default streams)."""
        (event,) = self.call("cudaEventCreateWithFlags", self.call.api.cudaEventDisableTiming)
        try:
            self.call("cudaEventRecord", event, stream)
            self.call("cudaStreamWaitEvent", self._stream, event, 0)
        finally:
            self.call.release("cudaEventDestroy", event)  # CUDA keeps it until it has happened

    def seconds(self, enqueue: Callable[[], None]) -> float:
        """What the GPU takes from the first to the last of what ``enqueue`` puts on the stream, by its own clock."""
        with ExitStack() as events:
            begin, end = self._event(events), self._event(events)
            self.call("cudaEventRecord", begin, self._stream)
            enqueue()
            self.call("cudaEventRecord", end, self._stream)
            self.call("cudaEventSynchronize", end)
            (ms,) = self.call("cudaEventElapsedTime", begin, end)
        return float(ms) / 1e3

    def synchronise(self) -> None:
        """Wait for everything that was enqueued. Errors of kernels and copies show up here."""
        self.call("cudaStreamSynchronize", self._stream)

    def idle(self) -> bool:
        """Has everything that was enqueued been done?"""
        status, _ = self.call.status("cudaStreamQuery", self._stream)
        busy = bool(status == self.call.api.cudaError_t.cudaErrorNotReady)
        if busy:
            self.call.forget()
        return not busy

    def holds(self, address: int) -> bool:
        """Is this an address in the memory of this GPU, or in memory that CUDA moves to it?"""
        status, values = self.call.status("cudaPointerGetAttributes", address)
        if status != self.call.success:
            self.call.forget()
            return False
        kinds = self.call.api.cudaMemoryType
        there = values[0].type == kinds.cudaMemoryTypeDevice and values[0].device == self.index
        return bool(there or values[0].type == kinds.cudaMemoryTypeManaged)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        free, _total = self.call("cudaMemGetInfo")
        return int(free)

    def close(self) -> None:
        """Destroy the stream. Calling it twice is fine."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self.call.release("cudaStreamDestroy", stream)

    def _event(self, events: ExitStack) -> Any:
        """One that has a time, destroyed with ``events``."""
        (event,) = self.call("cudaEventCreateWithFlags", self.call.api.cudaEventDefault)
        events.callback(self.call.release, "cudaEventDestroy", event)
        return event

    def _new_stream(self) -> Any:
        """One that does not wait for CUDA's default stream, nor that one for it."""
        (stream,) = self.call("cudaStreamCreateWithFlags", self.call.api.cudaStreamNonBlocking)
        return stream

    def _find(self, target: str | None, number: int | None, name: str | None) -> tuple[int, str]:
        """Index and name of the GPU that is meant."""
        (count,) = self.call("cudaGetDeviceCount")
        found = []
        for index in range(count):
            (properties,) = self.call("cudaGetDeviceProperties", index)
            called = properties.name.decode("utf-8", "replace")
            found.append((index, called, f"sm{properties.major}{properties.minor}"))
        fitting = [(i, called) for i, called, sm in found if target in (None, sm) and number in (None, i)]
        if fitting:
            return next((each for each in fitting if each[1] == name), fitting[0])
        there = ", ".join(f"{called} ({sm})" for _, called, sm in found) or "none"
        which = "no GPU that CUDA shows" if number is None else f"GPU {number}, of those that CUDA shows,"
        missing = "there" if number is None else "not there"
        wanted = target or missing if number is None or number >= count else f"not {target}"
        raise SetupError(f"{which} is {wanted}; it shows {there}. Check CUDA_VISIBLE_DEVICES.")

    def _copy(self, to: int, source: int, size: int, kind: str) -> None:
        self.call("cudaMemcpyAsync", to, source, size, getattr(self.call.api.cudaMemcpyKind, kind), self._stream)


def _host(array: NDArray[np.generic]) -> int:
    assert array.flags.c_contiguous
    return int(array.ctypes.data)
