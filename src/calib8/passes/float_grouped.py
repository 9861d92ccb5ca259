"""A grouped convolution that TensorRT would not compute in INT8 has a constant weight in float.

    codes -> DQ -> Cast -> Conv (grouped) -> Add, GlobalAveragePool, …     becomes     weight (FP16) -> Conv -> …

TensorRT 10.6 has kernels in INT8 for it, depthwise or not, only where codes come out, behind a ReLU, a Clip or SiLU at
most. Else it computes in FP16 with weights that a kernel dequantises in every run, and what comes out is nonsense: on
an H200 0.3 to 0.6 dB, or NaN, of models that have 45 to 50 on a CPU. With constant weights the same kernels are right.

Rules:
1. The weight comes from a DequantizeLinear of constants, codes or such as Q makes codes of, and a Cast, if any.
2. The result is not codes at once: something else than Q reads it, or something stands in between that
   ``graph.pointwise`` does not let end a kernel.
3. For TensorRT alone, at the moment of a build, which says which ops are in float.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.pointwise import becomes_codes, ends_in_kernel, ends_of, is_grouped, pointwise_from
from calib8.graph.values import drop_unread_node, op_of
from calib8.numerics import dequantize, quantize
from calib8.passes.qdq_nodes import Constants


def float_grouped(model: ir.Model) -> bool:
    """Rewrite every such convolution of ``model`` in place, and tell whether there are any."""
    constants, found = Constants(model.graph), False
    for node in list(model.graph):
        if op_of(node) != "Conv" or not is_grouped(node) or _gives_codes(node.outputs[0]):
            continue
        way = _way_of_weight(node)
        weight = _weight(way) if way else None
        if weight is None:
            continue
        found = True
        dtype = way[-1].outputs[0].dtype or ir.DataType.FLOAT
        node.replace_input_with(1, constants.new(f"{node.name}_weight", weight.astype(dtype.numpy())))
        for one in reversed(way):
            drop_unread_node(model.graph, one.outputs[0])
    return found


def _way_of_weight(conv: ir.Node) -> list[ir.Node]:
    """Q, DQ and Cast on the way of its weight, as far as they are there; [] if that is not rule 1."""
    way: list[ir.Node] = []
    value = conv.inputs[1]
    for kind in ("Cast", "DequantizeLinear", "QuantizeLinear"):
        node = value.producer() if value is not None else None
        if node is not None and op_of(node) == kind:
            way.insert(0, node)
            value = node.inputs[0]
    return way if any(op_of(node) == "DequantizeLinear" for node in way) else []


def _weight(way: list[ir.Node]) -> NDArray[np.float32] | None:
    """What comes of the constant in front of ``way``; None if it is none."""
    dequantise = next(node for node in way if op_of(node) == "DequantizeLinear")
    source, scale = (
        value.const_value if value is not None else None for value in (way[0].inputs[0], dequantise.inputs[1])
    )
    if source is None or scale is None:
        return None
    array, column = source.numpy(), [1] * len(source.shape)
    if scale.size > 1:
        column[dequantise.attributes.get_int("axis", 1)] = -1
    scales = scale.numpy().reshape(column)
    return dequantize(quantize(array, scales) if way[0] is not dequantise else array, scales)


def _gives_codes(value: ir.Value) -> bool:
    """Rule 2."""
    values, nodes = pointwise_from(value)
    return ends_in_kernel(nodes) and all(becomes_codes(reader) for reader, _ in ends_of(values, nodes))
