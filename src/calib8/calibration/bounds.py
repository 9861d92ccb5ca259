"""How large a tensor can become at most, by the arithmetic that makes it: what a calibration cache can be held against.

A public converter writes 1 / scale into caches. Neither TensorRT nor a user would notice before the accuracy is gone.
"""

import math
from collections.abc import Iterator, Mapping
from statistics import median

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.caches.cache import Cache
from calib8.errors import CacheError
from calib8.graph.values import name_of, op_of
from calib8.numerics import LEVELS
from calib8.progress import Progress

#: Operators whose outputs lie between -1 and 1.
UNIT = ("Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh")
#: Histogram calibrators overshoot a little; an inverse scale overshoots by orders of magnitude.
SLACK = 2.0
#: A range that differs so many times from what a batch of data shows was found for something else.
FAR = 1000.0


def require_scales(model: ir.Model, cache: Cache, progress: Progress) -> None:
    """Raise ``CacheError`` if ``cache`` holds 1 / scale, as far as tensors of the prepared ``model`` have known bounds.

    Where none has, but most scales would be more usual inverted, a note says so.
    """
    scales = cache.usable()
    known = [(name, bound, scales[name]) for name, bound in bounds(model, scales)]
    inverse = [
        (name, bound, scale) for name, bound, scale in known if not _fits(scale, bound) and _fits(1 / scale, bound)
    ]
    sound = sum(_fits(scale, bound) for _, bound, scale in known)
    if len(inverse) > sound:
        name, bound, scale = inverse[0]
        raise CacheError(
            f"the cache holds 1 / scale where TensorRT writes the scale, say {len(inverse)} of {len(known)} tensors "
            f"whose size is known: {name!r} cannot exceed {bound:.4g}, so its scale cannot exceed "
            f"{bound / LEVELS:.3g}, and the file says {scale:.4g}. Some converters write the inverse: add "
            "--inverse-scales (take it away if it is there), or write amax / 127 into the file."
        )
    if not known and scales and median(scales.values()) > 1:
        progress.note(
            f"half of the cache's scales are above 1, which means activations above {LEVELS}: unusual. If another tool "
            "than TensorRT wrote the file, it may hold 1 / scale: compare with and without --inverse-scales by "
            "`calib8 verify`"
        )


def require_plausible(model: ir.Model, amax: Mapping[str, float], progress: Progress) -> None:
    """Hold the ranges that INT8 ops are to have, by tensor of the prepared ``model``, against what tensors can hold.

    Raises ``CacheError`` for a range that no FP32 number reaches. A note names what is beyond its tensor's known bound,
    or beyond FP16: next to nothing would be left of it on the INT8 grid.
    """
    absurd = [name for name, value in amax.items() if value > SLACK * float(np.finfo(np.float32).max)]
    if absurd:
        raise CacheError(
            f"the cache's scale of {absurd[0]!r} is {amax[absurd[0]] / LEVELS:.3g}: no FP32 number fills such a range "
            f"({len(absurd)} such scales). The file is damaged, or holds something else than scales; calibrate again."
        )
    known = dict(bounds(model, amax))
    limits = {name: known.get(name, float(np.finfo(np.float16).max)) for name in amax}
    beyond = [name for name, value in amax.items() if value > SLACK * limits[name]]
    if beyond:
        name = beyond[0]
        what = "it cannot exceed" if name in known else "FP16 ends at"
        progress.note(
            f"the cache's range of {name!r} goes to {amax[name]:.4g}, but {what} {limits[name]:.4g}: next to nothing "
            f"would be left of it in INT8 ({len(beyond)} such ranges). Compare by `calib8 verify`, or calibrate again"
        )


def require_seen(amax: Mapping[str, float], seen: Mapping[str, float]) -> None:
    """Hold the ranges that INT8 ops are to have, by tensor, against the largest magnitudes in some data.

    Raises ``CacheError`` for one that is ``FAR`` times too large or too small, whatever calibrator chose it.
    """
    apart = {name: amax[name] / found for name, found in seen.items() if name in amax and 0 < found < math.inf}
    strange = {name: ratio for name, ratio in apart.items() if not 1 / FAR <= ratio <= FAR}
    if strange:
        name = max(strange, key=lambda name: abs(math.log(max(strange[name], 1e-300))))
        raise CacheError(
            f"the cache's range of {name!r} goes to {amax[name]:.4g}, and in the data the tensor reaches "
            f"{seen[name]:.4g}: no calibrator is so far off ({len(strange)} of {len(apart)} ranges are). The cache is "
            "of another model, or its numbers are no scales; or the data is scaled otherwise than in use."
        )


def bounds(model: ir.Model, names: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Name and largest possible magnitude of every tensor among ``names`` for which the graph tells it."""
    values = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if name_of(value) in names and (bound := _bound(value)) is not None and 0 < bound < math.inf:
            yield name_of(value), bound


def _fits(scale: float, bound: float) -> bool:
    return scale * LEVELS <= bound * SLACK


def _bound(value: ir.Value) -> float | None:
    if value.const_value is not None:
        constant = _floats(value)
        return None if constant is None else float(np.abs(constant).max(initial=0))
    node = value.producer()
    if node is None:
        return None
    kind = op_of(node)
    if kind in UNIT:
        return 1.0
    operands = [_floats(operand) for operand in node.inputs[1:3]]
    if kind == "Clip" and len(operands) == 2:
        low, high = operands
        return None if low is None or high is None else float(max(abs(low.min()), abs(high.max())))
    if kind == "LayerNormalization" and operands and (gamma := operands[0]) is not None:
        beta = operands[1] if len(operands) > 1 else np.zeros(1, np.float32)
        # One of n numbers of mean 0 and variance 1 is at most sqrt(n - 1) from 0.
        return None if beta is None else float((np.abs(gamma) * math.sqrt(gamma.size) + np.abs(beta)).max())
    return None


def _floats(value: ir.Value | None) -> NDArray[np.float32] | None:
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return None
    return value.const_value.numpy()
