"""The default policy: INT8 wherever the calibrated grid leaves a typical position enough signal."""

import math
from fnmatch import fnmatchcase

import onnx_ir as ir

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.errors import ConfigError, RangesError
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.planning.config import Int8
from calib8.planning.quant_plan import OpPlan, QuantPlan


def make_plan(model: ir.Model, ranges: Ranges, config: Int8) -> QuantPlan:
    """Decide for every weighted op of the prepared ``model``.

    An op stays in float if an ``exclude`` glob matches its node name, if ``include`` globs are given and none matches,
    or if a typical position of its input would keep less than ``min_sqnr_db``. Raises ``RangesError`` when the ranges
    are of another model, ``ConfigError`` when a glob matches nothing (a silent typo otherwise).
    """
    ops = weighted_ops(model)
    _check_globs(ops, config)
    missing = sorted({op.activation.name or "" for op in ops} - set(ranges.tensors))
    if missing:
        raise RangesError(
            f"the ranges hold no entry for {len(missing)} tensors of this model, e.g. {missing[0]!r}: they were made "
            "from another model. Calibrate this one."
        )
    return QuantPlan(ops=tuple(_decide(op, ranges.tensors[op.activation.name or ""], config) for op in ops))


def _decide(op: WeightedOp, seen: TensorRange, config: Int8) -> OpPlan:
    sqnr = seen.typical_sqnr_db
    treatment, reason = "int8", f"a typical position keeps {sqnr:.1f} dB"
    if any(fnmatchcase(op.name, glob) for glob in config.exclude):
        treatment, reason = "float", "excluded by name"
    elif config.include and not any(fnmatchcase(op.name, glob) for glob in config.include):
        treatment, reason = "float", "not included by name"
    elif sqnr < config.min_sqnr_db:
        treatment = "float"
        reason = f"outliers: a typical position would keep {sqnr:.1f} dB, less than {config.min_sqnr_db:g}"
    return OpPlan.model_validate(
        {
            "node": op.name,
            "kind": op.kind,
            "input": op.activation.name,
            "treatment": treatment,
            "reason": reason,
            "amax": seen.amax,
            "sqnr_db": round(sqnr, 2) if math.isfinite(sqnr) else None,
        }
    )


def _check_globs(ops: list[WeightedOp], config: Int8) -> None:
    for glob in (*config.include, *config.exclude):
        if not any(fnmatchcase(op.name, glob) for op in ops):
            examples = ", ".join(op.name for op in ops[:3]) or "none at all"
            raise ConfigError(f"{glob!r} matches no weighted op. The model's weighted ops are named like: {examples}.")
