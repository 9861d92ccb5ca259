"""The codes in which a model is quantised, as its Q and DQ tell."""

import onnx_ir as ir

from calib8.graph.values import op_of
from calib8.numerics import dtype_of
from calib8.precision import GRIDS, Precision

QDQ = ("QuantizeLinear", "DequantizeLinear")
#: The type of a precision's codes.
CODES: dict[Precision, ir.DataType] = {name: ir.DataType.from_numpy(dtype_of(grid)) for name, grid in GRIDS.items()}


def code_type(node: ir.Node, opset: int) -> ir.DataType | None:
    """The type of the quantised side of a Q or DQ, as ONNX defines it; None if the graph does not tell."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return node.inputs[2].dtype
    if node.op_type == "QuantizeLinear":
        stated = node.attributes.get_int("output_dtype", 0) if opset >= 21 else 0
        return ir.DataType(stated) if stated else ir.DataType.UINT8
    return node.inputs[0].dtype if node.inputs[0] is not None else None


def code_types(model: ir.Model) -> set[ir.DataType]:
    """Those of all Q and DQ, subgraphs included, as far as the graph tells."""
    opset = model.opset_imports.get("", 0)
    found = (code_type(node, opset) for node in model.graph.all_nodes() if op_of(node) in QDQ)
    return {dtype for dtype in found if dtype is not None}


def precision_of(model: ir.Model) -> Precision:
    """What the quantised ops of ``model`` multiply, if it has any."""
    found = code_types(model)
    return next((name for name, dtype in CODES.items() if name != "int8" and dtype in found), "int8")
