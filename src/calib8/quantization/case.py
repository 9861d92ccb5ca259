"""A model to be quantised with data at hand: what calibration found out about it, and the steps from there."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from calib8.calibration.checkpoint import checkpoint
from calib8.calibration.collect import collect
from calib8.calibration.origin import pass_key
from calib8.calibration.ranges import Ranges
from calib8.calibration.reached import unfit
from calib8.calibration.statistics import TensorStatistics
from calib8.data.sources import Source
from calib8.graph.dataset import dataset_for
from calib8.graph.io import SOURCE_SHA256
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.progress import Progress
from calib8.quantization.apply import apply_plan, solve_sites
from calib8.quantization.config import Quantize
from calib8.quantization.gelu import with_gelu_ops
from calib8.quantization.known import Known
from calib8.quantization.measuring import Measuring
from calib8.quantization.policy import Findings, candidates, check_ranges, make_plan
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import Gelu, QuantPlan
from calib8.quantization.solve import ROWS, Solution
from calib8.quantization.switchboard import Switchboard
from calib8.resume import unfinished_step


@dataclass(frozen=True)
class Case:
    """A prepared model, what calibration found out about it, and how it is to be quantised."""

    model: ir.Model
    ranges: Ranges
    statistics: Mapping[str, TensorStatistics]
    config: Quantize
    #: Where solutions are kept while there is work left, and found again.
    unfinished: Path | None = None
    #: What became of its GELUs, if anything.
    gelu: Gelu | None = None

    def solutions(self, progress: Progress) -> dict[str, Solution]:
        """How each op is conditioned and rounded; none if ranges alone decide."""
        check_ranges(self.model, self.ranges)
        if self.config.treatment == "plain":
            return {}
        with self.step("sites", progress) as folder:
            names = candidates(self.model, self.config)
            return solve_sites(self.model, names, self.statistics, progress, folder, self.config.goal, self.config.grid)

    def with_gelu_ops(self, probe: Probe, progress: Progress) -> "Case":
        """The case of the model with one op for each GELU, where that is to be as fast as can be.

        What calibration saw is of the model as it was: the difference is far below a step of any grid.
        """
        if self.config.goal != "latency":
            return self
        model, gelu = with_gelu_ops(self.model, probe, self.config.max_damage, progress)
        return replace(self, model=model, gelu=gelu)

    def step(self, name: str, progress: Progress, probe: Probe | None = None) -> AbstractContextManager[Path | None]:
        """The folder in which a step of the work, on the samples of ``probe``, is kept; None if none is."""
        if self.unfinished is None:
            return nullcontext()
        key = {"origin": self.ranges.origin.model_dump(), **self.config.chosen()}
        if probe is not None:
            kinds = {name: one.kind for name, one in probe.outputs.items()}
            key["probe"] = {"data": probe.data.fingerprint, "pooling": probe.pooling, "kinds": kinds}
        return unfinished_step(self.unfinished / name, key, progress)

    def measuring(
        self, names: set[str], solutions: Mapping[str, Solution], probe: Probe, folder: Path | None
    ) -> Measuring:
        """Measurements with any of ``names`` quantised as ``solutions`` say, kept in the ``folder`` of a ``step``."""
        path = folder / f"{_told(names, solutions)}.json" if folder is not None else None
        return Measuring(self.switchboard(names, solutions), probe, Known(path))

    def switchboard(self, names: set[str], solutions: Mapping[str, Solution]) -> Switchboard:
        """All of ``names`` to be switched between float and quantised."""
        return Switchboard(
            self.model, names, self.ranges, solutions, embedding=bool(self.config.embedding), grid=self.config.grid
        )

    def plan(self, solutions: Mapping[str, Solution], measured: Findings | None = None) -> QuantPlan:
        """What is done to each op."""
        plan = make_plan(self.model, self.ranges, self.config, solutions, measured)
        return plan.model_copy(update={"gelu": self.gelu})

    def apply(self, solutions: Mapping[str, Solution], measured: Findings | None = None) -> tuple[ir.Model, QuantPlan]:
        """The quantised model and its plan."""
        plan = self.plan(solutions, measured)
        return self.follow(plan, solutions), plan

    def follow(self, plan: QuantPlan, solutions: Mapping[str, Solution], *, folded: bool = True) -> ir.Model:
        """The quantised model that ``plan`` describes; ``folded``: see ``apply_plan``."""
        return apply_plan(self.model, self.ranges, plan, self.config, solutions, folded=folded)

    def follow_soundly(
        self, plan: QuantPlan, solutions: Mapping[str, Solution], probe: Probe, least: float, progress: Progress
    ) -> ir.Model:
        """``follow``, with less folded if the model has not the ``least`` score that its ops were measured to leave.

        What ops cost is measured before anything is folded. A GEMM that conditioning is folded into gives conditioned
        numbers, and nothing says for all models that those do not overflow in FP16.
        """
        quantised = self.follow(plan, solutions)
        if not self.folds_into_half or (score := probe.score(quantised)) >= least:
            return quantised
        other = self.follow(plan, solutions, folded=False)
        if (better := probe.score(other)) <= score:
            return quantised
        progress.note(
            f"folded for latency, the model keeps {score:.5f} ({probe.told}), less than {least:.5f}: FP16 "
            f"overflows or rounds too much. What conditions stays in front of Q, which has {better:.5f}"
        )
        return other

    @property
    def folds_into_half(self) -> bool:
        """Whether ops that compute in FP16 take conditioning in."""
        return self.config.goal == "latency" and self.config.remainder == "fp16"


def _told(names: set[str], solutions: Mapping[str, Solution]) -> str:
    """What tells how ``names`` are quantised from any other way, of one step of a case."""
    chosen = {name: solution.trial for name, solution in solutions.items()}
    told = [(name, asdict(chosen[name]) if name in chosen else None) for name in sorted(names)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def rows_to_sample(config: Quantize) -> int:
    """How many rows of every tensor ``Case.solutions`` needs."""
    return ROWS if config.treatment == "auto" else 0


def case_of(
    model: ir.Model,
    ranges: Ranges,
    data: Source,
    config: Quantize,
    progress: Progress,
    unfinished: Path | None = None,
) -> Case:
    """The case of ``model`` after one more pass over its calibration data.

    unfinished: folder to keep what is done in, the case's own work too, and to go on from.
    """
    check_ranges(model, ranges)  # before the pass, too
    made_from = {"model_sha256": model.metadata_props.get(SOURCE_SHA256, ""), "data_sha256": data.fingerprint()}
    origin = ranges.origin.model_copy(update=made_from)
    if unfinished is not None:  # of other data nothing is of any use
        unfinished = unfinished / f"data-{origin.data_sha256[:16]}"
    sample = rows_to_sample(config)
    with checkpoint(unfinished, pass_key(origin, sample, histograms=False), progress) as kept:
        statistics = collect(model, dataset_for(model, data, progress), progress, sample=sample, checkpoint=kept)
    beyond = ranges.beyond | unfit(model, statistics)
    ranges = ranges.model_copy(update={"beyond": beyond})
    return Case(plain_convolutions(model), ranges, statistics, config, unfinished)
