"""A grouped convolution that TensorRT would not compute in INT8 has a constant FP16 weight.

    codes -> DQ -> Cast -> Conv (grouped) -> Add, GlobalAveragePool, …     becomes     weight (FP16) -> Conv -> …

TensorRT 10.6 has kernels in INT8 for it, depthwise or not, only where codes come out, behind a ReLU, a Clip or SiLU at
most. Else it computes in FP16 with weights that a kernel dequantises in every run, and what comes out is nonsense: on
an H200 0.3 to 0.6 dB, or NaN, of models that have 45 to 50 on a CPU. With constant weights the same kernels are right.

Rules:
1. The weight comes from a DequantizeLinear of constants, and a Cast to FP16.
2. The result is not codes at once: something else than Q reads it, or something stands in between that
   ``graph.pointwise`` does not let end a kernel.
3. For TensorRT alone, at the moment of a build, which says which ops are FP16.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.pointwise import becomes_codes, ends_in_kernel, ends_of, is_grouped, pointwise_from
from calib8.graph.values import drop_unread_node, op_of
from calib8.numerics import dequantize
from calib8.passes.qdq_nodes import Constants

FP16 = ir.DataType.FLOAT16


def float_grouped(model: ir.Model) -> bool:
    """Rewrite every such convolution of ``model`` in place, and tell whether there are any."""
    constants, found = Constants(model.graph), False
    for node in list(model.graph):
        cast = node.inputs[1].producer() if op_of(node) == "Conv" and node.inputs[1] is not None else None
        weight = _weight(cast) if cast is not None else None
        if cast is None or weight is None or not is_grouped(node) or _gives_codes(node.outputs[0]):
            continue
        found = True
        node.replace_input_with(1, constants.new(f"{node.name}_weight_fp16", weight.astype(np.float16)))
        dequantise = cast.inputs[0]
        drop_unread_node(model.graph, cast.outputs[0])
        if dequantise is not None:
            drop_unread_node(model.graph, dequantise)
    return found


def _weight(cast: ir.Node) -> NDArray[np.float32] | None:
    """What ``cast`` reads if rule 1 holds."""
    dequantise = cast.inputs[0].producer() if op_of(cast) == "Cast" and cast.inputs[0] is not None else None
    if dequantise is None or op_of(dequantise) != "DequantizeLinear" or cast.outputs[0].dtype != FP16:
        return None
    codes, scale = (value.const_value if value is not None else None for value in dequantise.inputs[:2])
    if codes is None or scale is None:
        return None
    column = [-1, *[1] * (len(codes.shape) - 1)] if scale.size > 1 else []
    return dequantize(codes.numpy(), scale.numpy().reshape(column))


def _gives_codes(value: ir.Value) -> bool:
    """Rule 2."""
    values, nodes = pointwise_from(value)
    return ends_in_kernel(nodes) and all(becomes_codes(reader) for reader, _ in ends_of(values, nodes))
