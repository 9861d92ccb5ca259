"""Explicit quantisation: put QuantizeLinear/DequantizeLinear pairs where TensorRT turns them into INT8 kernels.

Rules (NVIDIA, "Working with Quantized Types"; `docs/tensorrt.md` lists what happens when one is broken):
1. Symmetric: int8, zero point 0, on both sides. Every zero point is written out, since a missing one means uint8.
2. Activations have one scale per tensor, a constant. One Q/DQ pair per tensor serves all its quantised readers, so
   that the builder can still merge GEMMs that read one tensor.
3. Weights are int8 initializers behind a DequantizeLinear with one scale per output channel: axis 1 of a MatMul
   weight [K, N], axis 0 of a Conv weight. Any other axis would be dequantised silently.
4. Outputs, biases and residual adds stay in float: quantising them costs accuracy and an INT32 bias is refused.
"""

from collections.abc import Mapping
from itertools import count

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.errors import ModelError
from calib8.graph.weighted import WeightedOp
from calib8.numerics import quantize_weight, scale_of


def insert_qdq(model: ir.Model, ops: list[WeightedOp], amax: Mapping[str, float]) -> ir.Model:
    """Quantise ``ops`` of ``model`` in place and return it.

    ``amax`` maps the name of each op's activation tensor to the largest magnitude its INT8 grid has to reach.
    Raises ``ModelError`` for an op that computes in FP16 already, or whose weight holds NaN or infinity.
    """
    _refuse_half(ops)
    activations: dict[str, ir.Value] = {}
    weights: dict[tuple[str, int], ir.Value] = {}
    for op in ops:
        tensor = _name(op.activation)
        if tensor not in activations:
            activations[tensor] = _quantised_activation(model.graph, op.activation, scale_of(amax[tensor]))
        key = (_name(op.weight), op.channel_axis)
        if key not in weights:
            weights[key] = quantised_constant(model.graph, op.weight, op.channel_axis, op.node)
        op.node.replace_input_with(0, activations[tensor])
        op.node.replace_input_with(1, weights[key])
    for name in {_name(op.weight) for op in ops}:
        if not model.graph.initializers[name].uses():
            del model.graph.initializers[name]
    return model


def _refuse_half(ops: list[WeightedOp]) -> None:
    for op in ops:
        if ir.DataType.FLOAT16 in (op.activation.dtype, op.weight.dtype):
            raise ModelError(
                f"node {op.name!r} computes in FP16; expected an FP32 model. Export it in FP32: calib8 itself turns "
                "into FP16 what does not become INT8."
            )


def _quantised_activation(graph: ir.Graph, value: ir.Value, scale: NDArray[np.float32]) -> ir.Value:
    """``value -> Q -> DQ``, rules 1 and 2."""
    name = _free(graph, _name(value))
    grid = [
        _initializer(graph, f"{name}_scale", np.asarray(scale, np.float32)),
        _initializer(graph, f"{name}_zero_point", np.zeros((), np.int8)),
    ]
    q = _node("QuantizeLinear", [value, *grid], name, ir.DataType.INT8, value.shape)
    dq = _node("DequantizeLinear", [q.outputs[0], *grid], name, ir.DataType.FLOAT, value.shape)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [q, dq])
    else:
        graph.insert_after(producer, [q, dq])
    return dq.outputs[0]


def quantised_constant(graph: ir.Graph, constant: ir.Value, axis: int, before: ir.Node) -> ir.Value:
    """``int8 initializer -> DQ`` with one scale per index of ``axis``, placed before a reader (rules 1 and 3)."""
    assert constant.const_value is not None
    weight = constant.const_value.numpy().astype(np.float32, copy=False)
    if not np.isfinite(weight).all():
        raise ModelError(f"the weight {constant.name!r} holds NaN or infinity. Train or export the model again.")
    name = _free(graph, _name(constant))
    codes, scale = quantize_weight(weight, axis)
    inputs = [
        _initializer(graph, f"{name}_quantized", codes),
        _initializer(graph, f"{name}_scale", scale),
        _initializer(graph, f"{name}_zero_point", np.zeros(scale.shape, np.int8)),
    ]
    dq = _node("DequantizeLinear", inputs, name, ir.DataType.FLOAT, constant.shape, {"axis": axis})
    graph.insert_before(before, dq)
    return dq.outputs[0]


def _node(
    op_type: str,
    inputs: list[ir.Value],
    tensor: str,
    dtype: ir.DataType,
    shape: ir.Shape | None,
    attributes: dict[str, int] | None = None,
) -> ir.Node:
    output = ir.Value(name=f"{tensor}_{op_type}_output", type=ir.TensorType(dtype), shape=shape)
    return ir.node(op_type, inputs, attributes or {}, outputs=[output], name=f"{tensor}_{op_type}")


def _free(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name_2`` and so on where ``graph`` already has values named like those that we derive from it."""
    taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
    taken |= {value.name for value in graph.inputs}
    candidates = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(c for c in candidates if taken.isdisjoint({f"{c}_scale", f"{c}_zero_point", f"{c}_quantized"}))


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
