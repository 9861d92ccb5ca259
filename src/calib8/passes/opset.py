"""Raise a model's opset where every node goes on to mean what it meant.

Rules:
1. Operators whose later versions only take more types or have new attributes with the old meaning as their default stay
   as they are: ``UNCHANGED``, and all whose version is the same in both opsets.
2. Reductions take their axes as an input from 18 on (ReduceSum from 13).
3. A Split of opset 18 and later says into how many, unless it says how: only those that do are raised.
4. With any other operator of a changed version, or one that ONNX does not know, the model stays as it is.
"""

import numpy as np
import onnx
import onnx_ir as ir

from calib8.graph.values import op_of
from calib8.passes.qdq_nodes import Constants

UNCHANGED = (
    *("Add", "Cast", "CastLike", "Constant", "ConstantOfShape", "CumSum", "DequantizeLinear", "Div", "Equal"),
    *("GreaterOrEqual", "Identity", "IsInf", "IsNaN", "LeakyRelu", "LessOrEqual", "Mul", "PRelu", "Pad", "Pow"),
    *("QuantizeLinear", "Relu", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Sub", "Where"),
)
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare"),
)


def raise_opset(model: ir.Model, opset: int) -> bool:
    """Give the prepared ``model`` at least ``opset``, in place. False, and nothing is changed, where rule 4 holds."""
    own = model.opset_imports.get("", 0)
    if own >= opset:
        return True
    if not all(_stays(node, own, opset) for node in model.graph.all_nodes()):
        return False
    constants = Constants(model.graph)
    for node in list(model.graph.all_nodes()):
        if op_of(node) in REDUCTIONS and own < 18 <= opset and "axes" in node.attributes:
            axes = np.array(node.attributes.pop("axes").as_ints(), np.int64)
            node.resize_inputs(2)
            node.replace_input_with(1, constants.new(f"{node.name}_axes", axes))
    model.opset_imports[""] = opset
    return True


def _stays(node: ir.Node, old: int, new: int) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return True  # of an opset of its own
    try:
        versions = [onnx.defs.get_schema(node.op_type, opset).since_version for opset in (old, new)]
    except onnx.defs.SchemaError:
        return False
    if versions[0] == versions[1] or node.op_type in (*UNCHANGED, *REDUCTIONS):
        return True
    return node.op_type == "Split" and len(node.inputs) > 1 and node.inputs[1] is not None
