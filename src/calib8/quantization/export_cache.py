"""The way back: a calibration cache for TensorRT 8 to 10 from ranges, or from a model with explicit Q/DQ.

Rules:
1. TensorRT 10 is to read the FP32 model, so entries carry its names. In a model that calib8 made, the plan knows them;
   the FP16 Casts of a quantised model are looked through.
2. A scale is exported only where it is the tensor's own. What was conditioned before Q (shifted, smoothed, split) has
   another grid, and FP16 remainders no longer carry the range. Nor does a grid hold channels that go around INT8.
3. A migrated model still holds the cache that it came from: its entries keep their place and their bytes, those that
   match nothing included; only scales that the model has changed since are replaced.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calib8.caches.cache import Cache, cache_of, is_usable
from calib8.caches.record import require_fit
from calib8.calibration.ranges import Ranges, algorithm_of
from calib8.errors import CacheError
from calib8.graph.io import load
from calib8.graph.values import name_of
from calib8.progress import Quiet
from calib8.provenance import CALIBRATION, PLAN, Origin
from calib8.quantization.migrate import CACHE, REARRANGING
from calib8.quantization.quant_plan import QuantPlan, recorded


@dataclass(frozen=True)
class Exported:
    """A cache, what it was made from (None if nothing tells), and the tensors that it lacks, with the reason."""

    cache: Cache
    origin: Origin | None
    left_out: dict[str, str]


def exported(source: Path) -> Exported:
    """From a ranges file (``.json``), a model (``.onnx``) or a calibration cache (anything else)."""
    if source.suffix == ".json":
        return from_ranges(Ranges.load(source))
    if source.suffix == ".onnx":
        return from_model(load(source))
    return Exported(Cache.load(source), require_fit(source, "", Quiet()), {})


def from_ranges(ranges: Ranges) -> Exported:
    """One entry per calibrated tensor."""
    return Exported(ranges.cache(), ranges.origin, {})


def from_model(model: ir.Model) -> Exported:
    """One entry per activation with a grid of its own. Raises ``CacheError`` if there is none."""
    props = model.metadata_props
    origin, plan = recorded(Origin, model, CALIBRATION), recorded(QuantPlan, model, PLAN)
    scales, left_out = _scales(model, plan)
    if not scales:
        reason = next(iter(left_out.items()), ("no activation", "goes through QuantizeLinear with a constant scale"))
        raise CacheError(
            f"the model has no scale that a calibration cache could hold: {reason[0]} {reason[1]}. Expected a model "
            "with explicit Q/DQ, int8 and symmetric, or the ranges.json of `calib8 calibrate` or `calib8 convert`, "
            "which has the range of every tensor."
        )
    if CACHE in props:
        base = Cache.parse(props[CACHE], "the cache in the model")
    else:
        base = cache_of({}, algorithm=algorithm_of(origin))
    return Exported(base.with_scales(scales), origin, left_out)


def _scales(model: ir.Model, plan: QuantPlan | None) -> tuple[dict[str, float], dict[str, str]]:
    """Scale by FP32 tensor, and the tensors that have none, with the reason."""
    inputs = list(dict.fromkeys(op.input for op in plan.ops if op.treatment == "int8")) if plan is not None else None
    found: dict[str, float] = {}
    left_out: dict[str, str] = {
        op.input: f"has {op.side_channels} channels that go around INT8: its grid is that of the others"
        for op in (plan.ops if plan is not None else ())
        if op.side_channels
    }
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or node.inputs[0] is None or node.inputs[0].const_value is not None:
            continue
        names = list(_names(node.inputs[0]))
        name = names[0] if inputs is None else next((known for known in names if known in inputs), None)
        scale = _scale(node)
        if name is None:
            continue  # the plan names it below
        if scale is None:
            left_out[name] = "is quantised per channel, asymmetrically, or by a scale computed at run time"
        elif found.setdefault(name, scale) != scale:
            left_out[name] = "has several grids"
    for name in inputs or ():
        if name not in found and name not in left_out:
            left_out[name] = "was conditioned (shifted, smoothed or split), and its grid is another tensor's"
    return {name: scale for name, scale in found.items() if name not in left_out}, left_out


def _names(value: ir.Value) -> Iterator[str]:
    """The names of a tensor in front of Q, and of those that it is a mere Cast or rearrangement of, nearest first."""
    source: ir.Value | None = value
    while source is not None:
        if source.dtype == ir.DataType.FLOAT16:  # ``passes.half`` moved the name of an FP32 output behind a Cast
            outputs = [reader.outputs[0] for reader, _ in source.uses() if reader.op_type == "Cast"]
            yield from (name_of(output) for output in outputs if output.is_graph_output())
        node = source.producer()
        kind = node.op_type if node is not None else ""
        before = node.inputs[0] if node is not None and kind in ("Cast", *REARRANGING) else None
        if kind != "Cast" or before is None or before.dtype != ir.DataType.FLOAT16:
            yield name_of(source)
        source = before


def _scale(node: ir.Node) -> float | None:
    """The scale of a QuantizeLinear that is symmetric int8 with one constant, usable scale; None for any other."""
    scale = node.inputs[1].const_value if node.inputs[1] is not None else None
    zero = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if scale is None or zero is None or zero.dtype != ir.DataType.INT8 or np.any(zero.numpy()):
        return None
    number = scale.numpy().astype(np.float32)
    return float(number.item()) if number.size == 1 and is_usable(float(number.item())) else None
