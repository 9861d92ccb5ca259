"""The policy: 8 bits wherever enough of the signal is left."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.errors import ConfigError, RangesError
from calib8.graph.left_out import LeftOut, left_out
from calib8.graph.value_sizes import deciding
from calib8.graph.weighted import WeightedOp, require_original, weighted_ops
from calib8.passes.unheld import require_made_from
from calib8.precision import Grid
from calib8.quantization.config import Common, Quantize
from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.quantization.solve import Solution
from calib8.quantization.worth import not_faster

Verdict = tuple[str, str, float | None]
DECIDES = "sizes of tensors are computed from its result, as the length of speech is from durations"


@dataclass(frozen=True)
class Findings:
    """What was found out at the model's own output: cosine with an op alone quantised, and why some stay in float."""

    cosine: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def make_plan(
    model: ir.Model,
    ranges: Ranges,
    config: Quantize,
    solutions: Mapping[str, Solution] | None = None,
    measured: Findings | None = None,
) -> QuantPlan:
    """Decide for every weighted op of the prepared ``model``.

    An op stays in float if its name is not selected (see ``selected``), if it decides on sizes, or is to be fast and
    INT8 makes it no faster (see ``kept_in_float``), if it was ``measured`` to cost too much, if nothing but zero was
    ever seen at its input, or if less than ``min_sqnr_db`` would be left: of its output on held-out rows where
    ``solutions`` has it, of a typical position of its input otherwise. What is then no faster beside these stays in
    float, too. Behind these come the ops with a weight that nobody can quantise, see ``graph.left_out``. Raises
    ``RangesError`` when the ranges are of another model.
    """
    check_ranges(model, ranges)
    names, solved, measured = selected(model, config), solutions or {}, measured or Findings()
    reasons = {**measured.left_out, **kept_in_float(model, config)}
    weighted, seen = weighted_ops(model), ranges.tensors
    verdicts: dict[str, Verdict] = {}
    for op in weighted:
        tensor, solution = seen[op.activation.name or ""], solved.get(op.name)
        if op.kind not in config.grid.kinds:
            only = f"{config.grid.precision.upper()} is for {' and '.join(config.grid.kinds)}"
            verdicts[op.name] = "float", only, None
        elif op.name not in names:
            verdicts[op.name] = "float", "left out by name", None
        elif op.name in reasons:
            verdicts[op.name] = "float", reasons[op.name], None
        elif solution is not None and not tensor.minimum == tensor.maximum == 0:
            verdicts[op.name] = _by_output(solution, config.min_sqnr_db)
        else:
            verdicts[op.name] = _by_input(tensor, config.min_sqnr_db, config.grid)
    if config.goal == "latency":
        quantised = {name for name, (treatment, *_) in verdicts.items() if treatment != "float"}
        verdicts |= {name: ("float", reason, None) for name, reason in not_faster(model, quantised).items()}
    ops = [_op_plan(op, seen[op.activation.name or ""], solved.get(op.name), verdicts[op.name]) for op in weighted]
    told = [op.model_copy(update={"expected_cosine": measured.cosine.get(op.node)}) for op in ops]
    return QuantPlan(ops=(*told, *map(_op_left_out, left_out(model))))


def _op_left_out(op: LeftOut) -> OpPlan:
    of = {"node": op.name, "kind": op.kind, "input": op.input, "reason": op.reason}
    return OpPlan.model_validate({**of, "treatment": "float", "amax": None, "sqnr_db": None})


def selected(model: ir.Model, config: Common) -> set[str]:
    """Names of the weighted ops, of kinds for which the grid is, that ``include`` (all if empty) and not ``exclude``
    globs match. The very name of an op means that op, whatever characters of a glob it holds.

    Raises ``ConfigError`` for a glob that matches nothing, a typo that would otherwise go unnoticed, and ``ModelError``
    for a model that calib8 quantised.
    """
    require_original(model)
    names = [op.name for op in weighted_ops(model)]
    matched = {glob: _matched(names, glob) for glob in (*config.include, *config.exclude)}
    for glob, found in matched.items():
        if not found:
            examples = ", ".join(names[:3]) or "none at all"
            raise ConfigError(f"{glob!r} matches no weighted op. The model's weighted ops are named like: {examples}.")
    included = set().union(*(matched[glob] for glob in config.include)) if config.include else set(names)
    fit = {op.name for op in weighted_ops(model) if op.kind in config.grid.kinds}
    return (included & fit).difference(*(matched[glob] for glob in config.exclude))


def _matched(names: list[str], glob: str) -> set[str]:
    return {glob} if glob in names else {name for name in names if fnmatchcase(name, glob)}


def candidates(model: ir.Model, config: Quantize) -> set[str]:
    """``selected``, without ``kept_in_float``. Raises as that does."""
    return selected(model, config) - set(kept_in_float(model, config))


def kept_in_float(model: ir.Model, config: Quantize) -> dict[str, str]:
    """Why ops stay in float that nothing has to be measured of, by name.

    Of two lengths of speech, one by one number of a duration more, no sample compares with the other's.
    """
    nodes = deciding(model.graph)
    sizes = {op.name: DECIDES for op in weighted_ops(model) if op.node in nodes}
    others = selected(model, config) - set(sizes)
    return sizes | (not_faster(model, others) if config.goal == "latency" else {})


def check_ranges(model: ir.Model, ranges: Ranges) -> None:
    """Raise ``RangesError`` if ``ranges`` were made from another model than this."""
    needed = {op.activation.name or "" for op in weighted_ops(model)}
    if missing := sorted(needed - set(ranges.tensors)):
        raise RangesError(
            f"the ranges hold no entry for {len(missing)} tensors of this model, e.g. {missing[0]!r}: they were made "
            "from another model. Calibrate this one."
        )
    require_made_from(ranges.origin, model)


def _by_output(solution: Solution, least: float) -> Verdict:
    sqnr = -10 * math.log10(max(solution.error, 1e-12))
    if sqnr < least:
        return "float", f"{solution.recipe}: its output would keep only {sqnr:.1f} dB, less than {least:g}", sqnr
    precision = solution.quantised.grid.precision
    return precision, f"{solution.recipe}: its output keeps {sqnr:.1f} dB on held-out rows", sqnr


def _by_input(seen: TensorRange, least: float, grid: Grid) -> Verdict:
    sqnr = seen.typical_sqnr_db(grid)
    if seen.amax == 0 or seen.typical == 0:
        what = "nothing but zero" if seen.amax == 0 else "mostly positions of nothing but zero"
        return "float", f"calibration saw {what} at its input", None
    if sqnr < least:
        return "float", f"outliers: a typical position would keep {sqnr:.1f} dB, less than {least:g}", sqnr
    return grid.precision, f"a typical position of its input keeps {sqnr:.1f} dB", sqnr


def _op_plan(op: WeightedOp, seen: TensorRange, solution: Solution | None, verdict: Verdict) -> OpPlan:
    treatment, reason, sqnr = verdict
    if treatment == "float":
        solution = None
    return OpPlan.model_validate(
        {
            "node": op.name,
            "kind": op.kind,
            "input": op.activation.name,
            "treatment": treatment,
            "reason": reason,
            "amax": seen.amax,
            "sqnr_db": None if sqnr is None else round(sqnr, 2),
            "recipe": None if solution is None else str(solution.recipe),
            "extra_columns": 0 if solution is None else solution.quantised.conditioning.extra,
            "side_channels": 0 if solution is None else len(solution.quantised.conditioning.side),
        }
    )
