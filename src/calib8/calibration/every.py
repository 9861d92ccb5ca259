"""Every float tensor of a graph: what TensorRT's own calibrators write into their cache.

Rules, from the cache that TensorRT 10.6 wrote for the text detector PP-OCRv4-det, 637 entries:
1. An input, and what a node computes, has its ONNX name (331 entries).
2. A constant that element-wise arithmetic or a matrix product reads is a layer of TensorRT's network: ``<name>_output``
   (154). Its range is what it holds, whatever the observer. A weight of a Conv, a norm's parameters, bounds of a Clip
   and the like are parameters of their layer.
3. What TensorRT's parser adds by itself (152), such as ``ONNXTRT_Broadcast_7_output`` for a constant that it gave more
   axes, is named by counting what it has added so far. No graph tells, so these have no entry.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.calibration.ranges import TensorRange
from calib8.graph.values import dropped_identities, name_of, op_of

#: Operators whose constant operands are layers of their own in TensorRT's network.
TAKING_LAYERS = ("Add", "Div", "Gemm", "MatMul", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Where")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def float_values(model: ir.Model) -> list[ir.Value]:
    """Rule 1: of the prepared ``model``, in graph order, as far as their types are known."""
    return [value for value in _values(model) if value.dtype in FLOATS]


def constant_ranges(model: ir.Model) -> dict[str, TensorRange]:
    """Rule 2: of the prepared ``model``; none of a constant that is empty, or infinite as masks are."""
    found = {}
    for value in model.graph.initializers.values():
        constant = value.const_value
        read = any(op_of(reader) in TAKING_LAYERS for reader, _ in value.uses())
        if not read or constant is None or constant.dtype not in FLOATS:
            continue
        values = constant.numpy().astype(np.float32, copy=False)
        if values.size and np.isfinite(values).all():
            found[f"{name_of(value)}_output"] = _range(values)
    return found


def with_dropped_identities(model: ir.Model, tensors: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """``tensors``, and behind each the same range for what a node of the file only called by another name."""
    found: dict[str, TensorRange] = {}
    values = {name_of(value): value for value in _values(model)}
    for name, tensor in tensors.items():
        found |= dict.fromkeys((name, *dropped_identities(values[name])), tensor)
    return found


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs if value.name)]


def _range(values: NDArray[np.float32]) -> TensorRange:
    low, high = float(values.min()), float(values.max())
    rms = float(np.sqrt(np.square(values, dtype=np.float64).mean()))
    return TensorRange(amax=max(-low, high), minimum=low, maximum=high, typical=rms)
