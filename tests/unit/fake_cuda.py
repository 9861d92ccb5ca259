"""``cuda.bindings.runtime`` without a GPU: host memory stands in for the GPU's, and streams are as lazy as they may be.

What is put on a stream is done when somebody waits for it, not before: code that forgets to wait, or that overwrites
what a copy under way still needs, computes something else here than it should.
"""
# ruff: noqa: N802, N803, N815

import ctypes
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

OUT_OF_MEMORY, NOT_READY, INVALID, NOT_IN_CAPTURE, BROKEN_CAPTURE = 2, 600, 1, 900, 901


@dataclass
class Stream:
    waiting: list[Callable[[], None]] = field(default_factory=list)
    finished: int = 0
    captured: list[Callable[[], None]] | None = None
    spoilt: bool = False

    def put(self, work: Callable[[], None]) -> None:
        (self.waiting if self.captured is None else self.captured).append(work)

    def run_up_to(self, end: int) -> None:
        while self.finished < end and self.waiting:
            work = self.waiting.pop(0)
            self.finished += 1
            work()

    @property
    def end(self) -> int:
        return self.finished + len(self.waiting)


class FakeCuda(ModuleType):
    """Every function has the parameters of the real one and succeeds, unless ``status`` has another answer for it."""

    cudaStreamNonBlocking, cudaEventDisableTiming, cudaHostAllocDefault, cudaEventDefault = 1, 2, 0, 0
    cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorNotReady=NOT_READY)
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out", cudaMemcpyDeviceToDevice="across"
    )
    cudaMemoryType = SimpleNamespace(cudaMemoryTypeDevice=2, cudaMemoryTypeManaged=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, cards: list[tuple[str, int, int]], total: int = 1 << 20) -> None:
        super().__init__("cuda.bindings.runtime")
        self.cards, self.total = cards, total
        self.status: dict[str, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.lock = threading.RLock()
        self.thread = threading.local()
        self.memory: dict[int, Any] = {}  # address -> its bytes
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {1: Stream()}  # CUDA's default stream
        self.events: dict[int, tuple[Stream, int] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.handles = itertools.count(77)

    @property
    def used(self) -> int:
        return sum(len(content) for content in self.memory.values())

    @property
    def left_behind(self) -> dict[str, int]:
        """What was taken and not given back."""
        held = {
            "memory": len(self.memory),
            "pinned": len(self.pinned),
            "streams": len(self.streams) - 1,
            "events": len(self.events),
            "graphs": len(self.graphs) + len(self.executables),
        }
        return {what: count for what, count in held.items() if count}

    def named(self, *functions: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in functions]

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """A kernel."""
        self.streams[int(stream)].put(work)

    def bytes_at(self, address: int, size: int) -> Any:
        return np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8)

    def _answer(self, function: str, *arguments: Any, values: int = 0) -> tuple[Any, ...] | None:
        """What it answers instead of doing its work."""
        self.calls.append((function, *arguments))
        status = self.status.get(function, 0)
        return (status, *[None] * values) if status else None

    def _allocate(self, held: dict[int, Any], size: int) -> int:
        block = np.zeros(size + 256, np.uint8)
        start = -block.ctypes.data % 256
        content = block[start : start + size]
        held[content.ctypes.data] = content
        return int(content.ctypes.data)

    # Devices

    def cudaGetDeviceCount(self) -> Any:
        return self.status.get("cudaGetDeviceCount", 0), len(self.cards)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        name, major, minor = self.cards[device]
        return 0, SimpleNamespace(name=name.encode(), major=major, minor=minor)

    def cudaSetDevice(self, device: int) -> Any:
        if answer := self._answer("cudaSetDevice", device):
            return answer
        self.thread.device = device
        return (0,)

    def cudaGetDevice(self) -> Any:
        return 0, getattr(self.thread, "device", 0)

    def cudaMemGetInfo(self) -> Any:
        return self._answer("cudaMemGetInfo", values=2) or (0, self.total - self.used, self.total)

    def cudaGetLastError(self) -> Any:
        self.calls.append(("cudaGetLastError",))
        return (0,)

    def cudaGetErrorString(self, error: int) -> Any:
        return 0, f"error {error}".encode()

    # Memory

    def cudaMalloc(self, size: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaMalloc", size, values=1):
                return answer
            assert size > 0
            if size > self.total - self.used:
                return OUT_OF_MEMORY, None
            return 0, self._allocate(self.memory, size)

    def cudaFree(self, devPtr: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaFree", devPtr):
                self.memory.pop(devPtr, None)
                return answer
            for stream in self.streams.values():
                stream.run_up_to(stream.end)
            return (INVALID,) if self.memory.pop(devPtr, None) is None else (0,)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        with self.lock:
            return self._answer("cudaHostAlloc", size, flags, values=1) or (0, self._allocate(self.pinned, size))

    def cudaFreeHost(self, ptr: int) -> Any:
        with self.lock:
            return self._answer("cudaFreeHost", ptr) or (INVALID if self.pinned.pop(ptr, None) is None else 0,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: str, stream: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaMemcpyAsync", dst, src, count, kind, stream):
                return answer
            self.put(stream, lambda: ctypes.memmove(dst, src, count) and None)
            return (0,)

    def cudaPointerGetAttributes(self, ptr: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaPointerGetAttributes", ptr, values=1):
                return answer
            there = any(address <= ptr < address + len(content) for address, content in self.memory.items())
            return 0, SimpleNamespace(type=2 if there else 0, device=getattr(self.thread, "device", 0))

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaStreamCreateWithFlags", flags, values=1):
                return answer
            handle = next(self.handles)
            self.streams[handle] = Stream()
            return 0, handle

    def cudaStreamDestroy(self, stream: int) -> Any:
        with self.lock:
            answer = self._answer("cudaStreamDestroy", stream)
            self.streams.pop(stream)
            return answer or (0,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaStreamSynchronize", stream):
                return answer
            if self.streams[stream].captured is not None:
                self.streams[stream].spoilt = True
                return (NOT_IN_CAPTURE,)
            self.streams[stream].run_up_to(self.streams[stream].end)
            return (0,)

    def cudaStreamQuery(self, stream: int) -> Any:
        with self.lock:
            return (NOT_READY if self.streams[stream].waiting else 0,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaStreamWaitEvent", stream, event, flags):
                return answer
            if (recorded := self.events[event]) is not None:
                other, end = recorded
                self.put(stream, lambda: other.run_up_to(end))
            return (0,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        handle = next(self.handles)
        self.events[handle] = None
        return 0, handle

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaEventRecord", event, stream):
                return answer
            self.events[event] = (self.streams[stream], self.streams[stream].end)
            return (0,)

    def cudaEventSynchronize(self, event: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaEventSynchronize", event):
                return answer
            stream, end = self.events[event]
            stream.run_up_to(end)
            return (0,)

    def cudaEventElapsedTime(self, start: int, end: int) -> Any:
        """A millisecond for each thing that was put on the stream between the two."""
        if answer := self._answer("cudaEventElapsedTime", start, end, values=1):
            return answer
        return 0, float(self.events[end][1] - self.events[start][1])

    def cudaEventDestroy(self, event: int) -> Any:
        self.events.pop(event)
        return (0,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        if answer := self._answer("cudaStreamBeginCapture", stream, mode):
            return answer
        self.streams[stream].captured = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        work, self.streams[stream].captured = self.streams[stream].captured, None
        if answer := self._answer("cudaStreamEndCapture", stream, values=1):
            return answer
        if self.streams[stream].spoilt:
            self.streams[stream].spoilt = False
            return BROKEN_CAPTURE, None
        handle = next(self.handles)
        assert work is not None
        self.graphs[handle] = work
        return 0, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        if answer := self._answer("cudaGraphInstantiate", graph, flags, values=1):
            return answer
        handle = next(self.handles)
        self.executables[handle] = self.graphs[graph]
        return 0, handle

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> Any:
        with self.lock:
            if answer := self._answer("cudaGraphLaunch", graphExec, stream):
                return answer
            for work in self.executables[graphExec]:
                self.put(stream, work)
            return (0,)

    def cudaGraphDestroy(self, graph: int) -> Any:
        self.graphs.pop(graph)
        return (0,)

    def cudaGraphExecDestroy(self, graphExec: int) -> Any:
        self._answer("cudaGraphExecDestroy", graphExec)
        self.executables.pop(graphExec)
        return (0,)
