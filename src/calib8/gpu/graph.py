"""CUDA graphs: what was enqueued once, enqueued again with one call.

Follows the CUDA C++ Programming Guide, "CUDA Graphs", stream capture.
"""

from __future__ import annotations

from collections.abc import Callable

from calib8.gpu.device import Device


class Graph:
    """What ``enqueue`` puts on the device's stream, recorded without being run.

    The addresses that it used are part of it. Nothing but enqueuing may happen in ``enqueue``. Raises ``SetupError`` if
    that cannot be recorded, or whatever ``enqueue`` raises.
    """

    def __init__(self, device: Device, enqueue: Callable[[], None]) -> None:
        self._call, self._stream = device.call, device.stream
        mode = device.call.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may allocate
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._discard()
            raise
        (graph,) = self._call("cudaStreamEndCapture", self._stream)
        try:
            (self._executable,) = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call.release("cudaGraphDestroy", graph)

    def launch(self) -> None:
        """Enqueue it all."""
        self._call("cudaGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Destroy it. Calling it twice is fine; it must not be running."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._call.release("cudaGraphExecDestroy", executable)

    def _discard(self) -> None:
        """Bring the stream back from recording; what was recorded is of no use, nor is a complaint about it."""
        status, values = self._call.status("cudaStreamEndCapture", self._stream)
        if status == self._call.success:
            self._call.status("cudaGraphDestroy", values[0])
        self._call.forget()
