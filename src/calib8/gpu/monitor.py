"""Watch a GPU from a thread while the work goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from calib8.errors import SetupError
from calib8.gpu import nvml as gpu
from calib8.gpu.activity import CAPACITY, Activity, Sample, Timeline

#: NVML's own sample period is 1/6 s or more: reading more often tells nothing new.
INTERVAL_SECONDS = 0.1
#: How long a driver that hangs may hold up the end of the work.
PATIENCE_SECONDS = 5.0


class Monitor:
    """Samples one GPU in a ``with`` block; ``activity`` is what was seen, from its end on.

    ``target`` ("sm86") chooses the GPU where there are several; None takes the first that ``CUDA_VISIBLE_DEVICES``
    leaves. Entering raises ``SetupError`` without nvidia-ml-py, driver or such a GPU. A GPU that is lost later stops
    nothing: ``activity.lost`` tells.
    """

    def __init__(
        self, target: str | None = None, *, interval_seconds: float = INTERVAL_SECONDS, capacity: int = CAPACITY
    ) -> None:
        self.target = target
        self.interval_seconds = interval_seconds
        self._timeline = Timeline(capacity)
        self._stop = threading.Event()
        self._lost: str | None = None
        self._activity: Activity | None = None
        self._cleanup = ExitStack()

    @property
    def activity(self) -> Activity:
        """The timeline. Raises ``SetupError`` before the end of the ``with`` block."""
        if self._activity is None:
            raise SetupError("the GPU is still being watched, or never was. Ask after the with block.")
        return self._activity

    def __enter__(self) -> Monitor:
        with ExitStack() as undo:
            self._nvml = undo.enter_context(gpu.opened())
            try:
                self._handle = self._chosen()
                self._facts = self._described()
            except self._nvml.NVMLError as error:
                raise SetupError(f"the GPU cannot be watched (NVML: {error}). See `calib8 doctor`.") from None
            self._start = time.perf_counter()
            self._read()
            self._thread = threading.Thread(target=self._watch, name="calib8 monitor", daemon=True)
            self._thread.start()
            self._cleanup = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():  # in a call of NVML, which must not be closed under it
            self._lost = self._when("the driver hangs")
        else:
            self._cleanup.close()
        self._activity = Activity(
            **self._facts,
            interval_seconds=self.interval_seconds,
            duration_seconds=round(time.perf_counter() - self._start, 3),
            readings=self._timeline.readings,
            kept_every=self._timeline.kept_every,
            lost=self._lost,
            summary=self._timeline.summary(),
            samples=tuple(self._timeline.samples),
        )

    def _chosen(self) -> Any:
        found = [(gpu.target_of(self._nvml, handle), handle) for handle in gpu.visible(self._nvml)]
        for target, handle in found:
            if self.target in (None, target):
                return handle
        wanted = f"{self.target} GPU" if self.target else "GPU"
        there = ", ".join(target for target, _ in found) or "none"
        raise SetupError(
            f"there is no {wanted} to watch: NVML and CUDA_VISIBLE_DEVICES leave {there}. See `calib8 doctor`."
        )

    def _described(self) -> dict[str, Any]:
        nvml = self._nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(self._handle).total
        except nvml.NVMLError:
            memory = None
        return {
            "device": nvml.nvmlDeviceGetName(self._handle),
            "target": gpu.target_of(nvml, self._handle),
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "memory_total_bytes": memory,
        }

    def _watch(self) -> None:
        try:
            while not self._stop.wait(self.interval_seconds):
                self._read()
            self._read()  # how the work ended, however short it was
        except SetupError as error:
            self._lost = self._when(str(error))

    def _read(self) -> None:
        found = gpu.read(self._nvml, self._handle)
        seconds = round(time.perf_counter() - self._start, 3)
        self._timeline.add(Sample.model_validate({"seconds": seconds, **found}))

    def _when(self, what: str) -> str:
        return f"after {time.perf_counter() - self._start:.1f} s: {what}"


@contextmanager
def watched(wanted: bool, target: str | None = None) -> Iterator[Callable[[], Activity | None]]:
    """Watch a GPU if that is ``wanted``; after the block, what it yields gives the activity, or None."""
    if not wanted:
        yield lambda: None
        return
    with Monitor(target) as monitor:
        yield lambda: monitor.activity
