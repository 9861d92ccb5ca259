"""Where the time of engines goes: what TensorRT's profiler tells of each kernel, by group, for one shape of batch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset
from calib8.engine.groups import group_of
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.verification.bench import Cell, Workload, shape_of

#: Runs whose median counts, after those that do not.
RUNS, WARM_UP = 25, 5
_NUMBER = re.compile(r"\d+")
#: Products are told apart by their precision, and summed, since INT8 stands against FP16.
PRODUCTS = ("GEMM", "conv")


class Kernel(BaseModel):
    """One kernel: how often a run launches it, and the median of what that takes in all.

    A step of the host between two kernels is listed, too, as TensorRT does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    group: str
    launches: int
    ms: float


class Share(BaseModel):
    """What a group of kernels takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    launches: int
    ms: float


class EngineTime(BaseModel):
    """The kernels of one engine in their order, and ``latency_ms`` of the same batch without a profiler."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernels: tuple[Kernel, ...]
    latency_ms: float

    @property
    def whole(self) -> Share:
        """All kernels. Their sum is not the latency."""
        return _sum(self.kernels)

    def alike(self) -> list[Kernel]:
        """Kernels of one group whose names differ by numbers only as one, the slowest first: layers come in dozens."""
        same: dict[tuple[str, str], list[Kernel]] = {}
        for kernel in self.kernels:
            same.setdefault((_NUMBER.sub("*", kernel.name), kernel.group), []).append(kernel)
        summed = (
            Kernel(name=name if len(kernels) > 1 else kernels[0].name, group=group, **dict(_sum(kernels)))
            for (name, group), kernels in same.items()
        )
        return sorted(summed, key=lambda kernel: -kernel.ms)

    def share(self, group: str) -> Share:
        """What the kernels of a group take, nothing if there is none; ``GEMM`` and ``conv`` are of every precision."""
        return _sum([kernel for kernel in self.kernels if group in (kernel.group, _product(kernel.group))])


class Breakdown(BaseModel):
    """The engines over one shape of batch, ``length`` None where the model has no sequence; medians of ``runs``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    length: int | None
    runs: int
    engines: dict[str, EngineTime]

    @property
    def shape(self) -> str:
        """See ``shape_of``."""
        return shape_of(self.batch, self.length)

    @property
    def groups(self) -> list[str]:
        """The groups of any engine, the one with the most time first."""
        found = {kernel.group for engine in self.engines.values() for kernel in engine.kernels}
        return sorted(found, key=lambda group: (-self._most(group), group))

    @property
    def sums(self) -> list[str]:
        """The products that come in several precisions: of these there are sums, too."""
        return [product for product in PRODUCTS if sum(_product(group) == product for group in self.groups) > 1]

    def shares(self, group: str | None) -> list[Share]:
        """What a group takes, or everything, engine by engine."""
        return [engine.share(group) if group else engine.whole for engine in self.engines.values()]

    def ratios(self, group: str | None) -> list[float | None]:
        """How many times faster each engine is than the first; None for the first, and where one has nothing of it."""
        first, *others = self.shares(group)
        return [None, *(first.ms / other.ms if first.ms and other.ms else None for other in others)]

    def _most(self, group: str) -> float:
        return max(share.ms for share in self.shares(group))


def break_down(
    engines: Mapping[str, Runtime], cells: Sequence[Cell], dataset: Dataset, progress: Progress
) -> tuple[Breakdown, ...]:
    """Time the kernels of ``engines`` over each shape that was measured, with batches like those of ``measure``."""
    workload, found = Workload(dataset), list[Breakdown]()
    for cell in cells:
        progress.update("time kernels", len(found), len(cells))
        arrays = workload.batch(cell.batch, cell.length)
        times = {
            name: EngineTime(kernels=_kernels(runtime, arrays), latency_ms=cell.latencies[name].median_ms)
            for name, runtime in engines.items()
        }
        found.append(Breakdown(batch=cell.batch, length=cell.length, runs=RUNS, engines=times))
    progress.update("time kernels", len(found), len(cells))
    return tuple(found)


def _kernels(runtime: Runtime, arrays: Mapping[str, object]) -> tuple[Kernel, ...]:
    times = runtime.layer_times(arrays, runs=RUNS, warm_up=WARM_UP)
    return tuple(
        Kernel(name=one.layer.name, group=group_of(one.layer), launches=one.launches, ms=one.ms) for one in times
    )


def _sum(kernels: Sequence[Kernel]) -> Share:
    return Share(launches=sum(kernel.launches for kernel in kernels), ms=sum(kernel.ms for kernel in kernels))


def _product(group: str) -> str | None:
    """``INT8 GEMM`` -> ``GEMM``."""
    return next((product for product in PRODUCTS if group.endswith(product)), None)
