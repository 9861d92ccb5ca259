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
    ``solutions`` has it, of a typical position of its input otherwise. Behind these come the ops with a weight that
    nobody can quantise, see ``graph.left_out``. Raises ``RangesError`` when the ranges are of another model.
    """
    check_ranges(model, ranges)
    names, solved, measured = selected(model, config), solutions or {}, measured or Findings()
    grid = config.grid
    kept = kept_in_float(model, config)
    ops = []
    for op in weighted_ops(model):
        tensor = op.activation.name or ""
        seen, solution = ranges.tensors[tensor], solved.get(op.name)
        if op.kind not in grid.kinds:
            treatment, reason, sqnr = "float", f"{grid.precision.upper()} is for {' and '.join(grid.kinds)}", None
        elif op.name not in names:
            treatment, reason, sqnr = "float", "left out by name", None
        elif op.name in kept:
            treatment, reason, sqnr = "float", kept[op.name], None
        elif op.name in measured.left_out:
            treatment, reason, sqnr = "float", measured.left_out[op.name], None
        elif solution is not None and not seen.minimum == seen.maximum == 0:
            treatment, reason, sqnr = _by_output(solution, config.min_sqnr_db)
        else:
            treatment, reason, sqnr = _by_input(seen, config.min_sqnr_db, grid)
        own = _op_plan(op, seen, solution if treatment != "float" else None, (treatment, reason, sqnr))
        ops.append(own.model_copy(update={"expected_cosine": measured.cosine.get(op.name)}))
    return QuantPlan(ops=(*ops, *map(_op_left_out, left_out(model))))


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
    return sizes | (not_faster(model) if config.goal == "latency" else {})


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
