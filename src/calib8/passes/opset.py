"""Raise the opset of a model for operators that newer ones have, without touching a weight.

Rules, from ONNX's changelog (https://onnx.ai/onnx/operators, opsets 13 to 20):
1. From opset 18 on reductions other than ReduceSum take their axes as an input.
2. From opset 18 on a Split without sizes says into how many parts.
3. RoiAlign takes half a pixel off from opset 16 on, unless told otherwise.
4. From opset 20 on GridSample's modes have other names, and DFT's axis is an input: with them a model stays below.
5. What else changed up to 20 is more types, and attributes and inputs whose absence means what it was.
6. Functions of the model's own have opsets of their own, and what an operator means that ONNX does not know is open.
ONNX's own converter needs the whole model in one message of at most 2 GB, weights included.
"""

import numpy as np
import onnx
import onnx_ir as ir

from calib8.errors import ModelError
from calib8.graph.values import name_of, op_of
from calib8.passes.qdq_nodes import Constants

#: What rule 5 covers, and so what models may have: from, and to.
OLDEST, NEWEST = 13, 20
#: Rule 1.
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare"),
)
#: Rule 4: the first opset in which a node of before would not mean what it meant.
STAY_BELOW = {"GridSample": 20, "DFT": 20}


def require_opset(model: ir.Model, opset: int) -> ir.Model:
    """``raise_opset``, and return the model. Raises ``ModelError`` where that cannot be."""
    if not raise_opset(model, opset):
        present, why = model.opset_imports.get("", 0), _obstacle(model, opset)
        raise ModelError(
            f"the model has opset {present} and {why}, and needs opset {opset}. Export it again with opset {opset} or "
            "later."
        )
    return model


def raise_opset(model: ir.Model, opset: int) -> bool:
    """Give the prepared ``model`` at least ``opset``, in place. False, and nothing is changed, by rules 4 and 6."""
    present = model.opset_imports.get("", 0)
    if present >= opset:
        return True
    assert present >= OLDEST, present  # by ``prepare``
    assert opset <= NEWEST, opset
    if _obstacle(model, opset):
        return False
    for node in list(model.graph.all_nodes()):
        kind = op_of(node)
        if present < 18 <= opset and kind in REDUCTIONS and "axes" in node.attributes:
            _axes_as_input(node)  # rule 1
        if present < 18 <= opset and kind == "Split" and (len(node.inputs) < 2 or node.inputs[1] is None):
            node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))  # rule 2
        if present < 16 <= opset and kind == "RoiAlign":  # rule 3
            node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                "coordinate_transformation_mode", "output_half_pixel"
            )
    model.opset_imports[""] = opset
    return True


def _obstacle(model: ir.Model, opset: int) -> str:
    """What keeps ``model`` from ``opset``, for people; "" if nothing does."""
    if model.functions:
        return "functions of its own"
    for node in model.graph.all_nodes():
        kind = op_of(node)
        if opset >= STAY_BELOW.get(kind, NEWEST + 1):
            return f"{kind} ({node.name}), which means something else from opset {STAY_BELOW[kind]} on"
        if kind and not onnx.defs.has(kind):
            return f"{kind} ({node.name}), which ONNX does not know"
    return ""


def _axes_as_input(node: ir.Node) -> None:
    axes = node.attributes.pop("axes").as_ints()
    assert isinstance(node.graph, ir.Graph)
    value = Constants(node.graph).new(f"{name_of(node.outputs[0])}_axes", np.array(axes, np.int64))
    node.resize_inputs(2)
    node.replace_input_with(1, value)
