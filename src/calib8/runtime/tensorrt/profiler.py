"""TensorRT's own clock: after a run it tells a profiler what each layer took, by events on the stream.

"Calculate layer timing info for the current optimization profile … and update the profiler after one iteration of
inference launch" (``IExecutionContext.report_to_profiler``). Layers have the names that the inspector tells.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from calib8.engine.layers import Layer
from calib8.engine.trt_api import TensorRtModule
from calib8.runtime.layer_time import LayerTime

if TYPE_CHECKING:
    from tensorrt import IProfiler

#: Name of a layer and its milliseconds, for each launch of one run.
Reported: TypeAlias = "Sequence[tuple[str, float]]"


class Heard(Protocol):
    """What a profiler was told."""

    def take(self) -> Reported:
        """The launches since the last time, in their order."""


def profiler_for(trt: TensorRtModule) -> tuple[IProfiler, Heard]:
    """A profiler for one context, and what it hears."""

    class Profiler(trt.IProfiler):  # type: ignore[name-defined, misc]  # a class of a module that is known at run time only
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.heard: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.heard.append((layer_name, ms))

        def take(self) -> Reported:
            heard, self.heard = self.heard, []
            return heard

    profiler = Profiler()
    return cast("IProfiler", profiler), profiler


def layer_times(runs: Sequence[Reported], layers: Sequence[Layer]) -> list[LayerTime]:
    """The layers of one or more runs, in the order of the first; ``layers`` are those of the profile that was used.

    Launches of the same name within a run are summed before the median is taken.
    """
    known = {layer.name: layer for layer in reversed(layers)}
    sums = [_summed(run) for run in runs]
    return [
        LayerTime(
            layer=known.get(name) or Layer(name, kind=""),
            launches=max(len(of_run.get(name, ())) for of_run in sums),
            ms=statistics.median(sum(of_run.get(name, ())) for of_run in sums),
        )
        for name in dict.fromkeys(name for run in runs for name, _ in run)
    ]


def of_profile(layers: Sequence[Layer], profile: int, profiles: int) -> list[Layer]:
    """The layers of one optimisation profile; the inspector lists those of all, one profile after the other.

    TensorRT marks some names with the number of the profile and others not. Of a name that comes several times, each
    profile has its share.
    """
    same: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        same[layer.name].append(layer)
    return [alike[profile * len(alike) // profiles] for alike in same.values()]


def _summed(run: Reported) -> dict[str, list[float]]:
    launches: dict[str, list[float]] = defaultdict(list)
    for name, ms in run:
        launches[name].append(ms)
    return launches
