"""Explicit quantisation: put QuantizeLinear/DequantizeLinear pairs where TensorRT makes INT8 or FP8 kernels of them.

Rules (NVIDIA, "Working with Quantized Types"; `docs/tensorrt.md` lists what happens when one is broken):
1. Symmetric: int8 or float8e4m3fn, zero point 0, on both sides. Every zero point is written out, since a missing one
   means uint8. FP8 is in ONNX from opset 19 on.
2. Activations have one scale per tensor, a constant. One Q/DQ pair per tensor serves all its quantised readers, so
   that the builder can still merge GEMMs that read one tensor.
3. Weights are initializers of codes behind a DequantizeLinear with one scale per output channel: axis 1 of a MatMul
   weight [K, N], axis 0 of a Conv weight. Any other axis would be dequantised silently.
4. Outputs, biases and residual adds stay in float: quantising them costs accuracy and an INT32 bias is refused. For
   latency, ``skip_codes`` adds those of convolutions from codes.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.errors import ModelError
from calib8.graph.mapped import release
from calib8.graph.values import drop_unread, name_of
from calib8.graph.weighted import WeightedOp, refuse_other_floats
from calib8.numerics import quantize_weight
from calib8.passes.opset import require_opset
from calib8.passes.qdq_nodes import Constants, dequantised_codes, quantised_activation
from calib8.precision import INT8, Grid


def insert_qdq(model: ir.Model, ops: list[WeightedOp], amax: Mapping[str, float], grid: Grid = INT8) -> ir.Model:
    """Quantise ``ops`` of ``model`` in place and return it.

    ``amax`` maps the name of each op's activation tensor to the largest magnitude that ``grid`` has to reach.
    Raises ``ModelError`` for an op that computes in FP16 already, or whose weight holds NaN or infinity, and as
    ``require_opset`` does.
    """
    for op in ops:
        refuse_other_floats(op.node)
    require_opset(model, grid.opset)
    constants = Constants(model.graph)
    activations: dict[str, ir.Value] = {}
    weights: dict[tuple[str, int], ir.Value] = {}
    for op in ops:
        tensor = name_of(op.activation)
        if tensor not in activations:
            activations[tensor] = quantised_activation(constants, op.activation, amax[tensor], grid)
        key = (name_of(op.weight), op.channel_axis)
        if key not in weights:
            weights[key] = quantised_constant(constants, op.weight, op.channel_axis, op.node, grid)
            release(model)  # or all weights would be in memory at the end
        op.node.replace_input_with(0, activations[tensor])
        op.node.replace_input_with(1, weights[key])
    for weight in {op.weight for op in ops}:
        drop_unread(model.graph, weight)
    return model


def finite_weight(constant: ir.Value) -> NDArray[np.float32]:
    """The float weight. Raises ``ModelError`` if it holds NaN or infinity."""
    assert constant.const_value is not None
    weight = constant.const_value.numpy().astype(np.float32, copy=False)
    if not np.isfinite(weight).all():
        raise ModelError(f"the weight {constant.name!r} holds NaN or infinity. Train or export the model again.")
    return weight


def quantised_constant(
    constants: Constants, constant: ir.Value, axis: int, before: ir.Node, grid: Grid = INT8
) -> ir.Value:
    """``initializer of codes -> DQ`` from a float weight, by min/max per index of ``axis`` (rules 1 and 3)."""
    codes, scale = quantize_weight(finite_weight(constant), axis, grid)
    return dequantised_codes(constants, name_of(constant), codes, scale, axis, before)
