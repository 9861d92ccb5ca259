"""INT8 timed op by op on this machine's GPU, while it can still be left out where it makes nothing faster."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from calib8.conversion.baseline import build_baseline
from calib8.data.batching import Dataset
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.errors import Calib8Error, PlanMismatch
from calib8.files import temporary_folder
from calib8.graph.io import save
from calib8.graph.limits import dimension_limits
from calib8.graph.weighted import weighted_ops
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.progress import Progress
from calib8.quantization.quant_plan import QuantPlan
from calib8.verification.gains import Gain, Gains, gains_of, time_layers
from calib8.verification.gpu_speed import GpuSpeed, race_on_gpu
from calib8.verification.on_gpu import first_here


@dataclass
class Trial:
    """A ``Stopwatch``: TensorRT's profiler on the engines that a conversion is going to need.

    They are built where the conversion builds them, so that it finds them there, unless ops are left in float. What
    keeps engines from being built or run is a note, and leaves nothing in float: the conversion meets it again.
    """

    #: The float model, its file and as it is quantised.
    model: Path
    reference: ir.Model
    #: Where the quantised model and its engine belong.
    quantised: Path
    engine: Path
    build: Build
    dataset: Dataset
    progress: Progress
    timed: Callable[[str], AbstractContextManager[None]]
    #: What was found; None as long as nothing was.
    gains: Gains | None = None
    #: The engine that runs here, and for what it is; why ops are no faster in it.
    _here: tuple[Path, str] = field(init=False)
    _slow: dict[str, str] = field(init=False)

    def slow(self, quantised: ir.Model, plan: QuantPlan) -> Mapping[str, str]:
        """See ``Stopwatch``. Where INT8 makes nothing faster, it is not left out: nothing of it would be left."""
        try:
            with self.timed("time op by op"):
                self.gains = found = self._time(quantised, plan)
        except Calib8Error as error:
            self.progress.note(f"INT8 was not timed op by op: {error}")
            return {}
        if found is None:
            return {}
        chosen = set(plan.quantised)
        self._slow = {name: found.why(gain) for gain in found.slow for name in gain.ops if name in chosen}
        if chosen <= set(self._slow):
            self.progress.note(
                f"INT8 speeds up none of the ops here ({found.runtime}); they are INT8 all the same, since nothing "
                "would be left of it"
            )
            return {}
        return self._slow

    def faster(self, other: ir.Model) -> bool:
        """See ``Stopwatch``. By the same clock and in the same shapes as in the race against FP16."""
        assert self.gains is not None
        try:
            with self.timed("time op by op"):
                race = self._race(other)
        except Calib8Error as error:
            self.progress.note(f"the engine with less in INT8 was not timed: {error}")
            return False
        if race is None:
            return False
        told, ratios = _told(self.gains.slow), race.told(race.cells)
        if not race.faster:
            self.gains = self.gains.model_copy(update={"without": race})
            self.progress.note(
                f"kept in INT8, though kernels are no faster for it: {told}; with them in FP16 the engine is {ratios}"
            )
            return False
        self.gains = self.gains.model_copy(update={"without": race, "left_out": tuple(self._slow)})
        self.progress.note(
            f"left in FP16, since INT8 does not speed them up here: {told}; that makes the engine {ratios}"
        )
        return True

    def _time(self, quantised: ir.Model, plan: QuantPlan) -> Gains | None:
        """None where nothing here runs the engine."""
        save(quantised, self.quantised)
        built = self._build(quantised, self.quantised, self.engine, self.build)
        if (here := first_here(built)) is None:
            return None
        self._here = here
        limits, silent = dimension_limits(self.reference), _WithoutNotes(self.progress)
        baseline = build_baseline(self.model, *here, self.build, limits, silent)
        runtime, timed = time_layers(baseline, here[0], self.dataset, self.progress)
        ops = weighted_ops(plain_convolutions(self.reference))  # as both engines have them
        return gains_of(runtime, ops, plan.quantised, timed) if timed else None

    def _race(self, other: ir.Model) -> GpuSpeed | None:
        """The engine of ``other`` against the one that was timed."""
        first, target = self._here
        with temporary_folder(first) as temporary:
            folder = temporary / "trial"  # a build locks the folder that it writes to, and the other is locked
            folder.mkdir()
            model = save(other, folder / self.quantised.name)
            here = self.build.model_copy(update={"targets": (target,)})
            (second,) = self._build(other, model, folder / f"{first.stem}-less-int8.engine", here)
            return race_on_gpu(first, second, self.dataset, self.progress)

    def _build(self, quantised: ir.Model, model: Path, engine: Path, config: Build) -> list[Path]:
        """The engines, those too whose plan the conversion will complain about."""
        config, limits = config.model_copy(update={"log": None}), dimension_limits(quantised)
        try:
            built = build_engine(model, engine, config, limits=limits, progress=_WithoutNotes(self.progress))
        except PlanMismatch as error:
            built = list(error.built)
        return [one.path for one in built]


@dataclass(frozen=True)
class _WithoutNotes:
    """A ``Progress`` of builds that the conversion repeats, and then hears of."""

    progress: Progress

    def update(self, stage: str, done: float, total: float | None) -> None:
        self.progress.update(stage, done, total)

    def note(self, message: str) -> None:
        pass


def _told(gains: tuple[Gain, ...]) -> str:
    """``12 x MatMul 768x3072, as '/encoder/…'``."""
    return "; ".join(f"{gain.told}, as {gain.ops[0]!r}" for gain in gains)
