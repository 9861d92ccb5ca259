"""A product with a constant on its left becomes one with a weight on its right, as all else here expects it.

``C @ x`` is ``(xᵀ @ Cᵀ)ᵀ``, the same sums. TensorRT-RTX 1.7 makes the same kernels of both: its INT8 GEMM takes scales
per row of a constant on the left, and the transposes join the kernels around it.

Rules:
1. Rewritten is a MatMul of a constant matrix, with or without axes of 1 in front, and a tensor of known rank: two axes
   or more, and no fewer than the constant has.
2. Nothing becomes of a Gemm, whose bias would have to be turned as well: nobody exports such a one.
3. What several constants multiply is turned once, so that they stay readers of one tensor.
"""

import onnx_ir as ir

from calib8.graph.values import drop_unread, name_of, op_of
from calib8.passes.fold_constants import fold_lazily


def turn_left_constants(model: ir.Model) -> bool:
    """Apply the rules to the main graph of ``model``, in place. Whether there was one."""
    turned: dict[ir.Value, ir.Value] = {}
    found = [node for node in model.graph if _has_left_constant(node)]
    for node in found:
        _turn(model.graph, node, turned)
    return bool(found)


def _has_left_constant(node: ir.Node) -> bool:
    """Rules 1 and 2."""
    if op_of(node) != "MatMul":
        return False
    constant, tensor = node.inputs
    if constant is None or tensor is None or constant.const_value is None or tensor.const_value is not None:
        return False
    dims, shape = constant.const_value.shape.numpy(), tensor.shape
    if constant.const_value.dtype != ir.DataType.FLOAT:
        return False
    return len(dims) > 1 and set(dims[:-2]) <= {1} and shape is not None and len(shape) >= len(dims)


def _turn(graph: ir.Graph, node: ir.Node, turned: dict[ir.Value, ir.Value]) -> None:
    constant, tensor = node.inputs
    assert constant is not None
    assert constant.const_value is not None
    assert tensor is not None
    assert tensor.shape is not None
    rank, result, name = len(tensor.shape), node.outputs[0], name_of(node.outputs[0])
    if tensor not in turned:  # rule 3
        turn = _transpose(tensor, rank, f"{tensor.name}::turned")
        graph.insert_before(node, turn)
        turned[tensor] = turn.outputs[0]
    weight = _transpose(constant, len(constant.const_value.shape), f"{constant.name}::{node.name}")
    product = ir.node("MatMul", [turned[tensor], weight.outputs[0]], name=node.name)
    product.outputs[0].name = f"{name}::turned"
    back = _transpose(product.outputs[0], rank, f"{name}::back")
    graph.insert_before(node, [weight, product, back])
    fold_lazily(graph, weight)
    result.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    back.outputs[0].name = name
    drop_unread(graph, constant)


def _transpose(value: ir.Value, rank: int, name: str) -> ir.Node:
    """A node that swaps the last two of ``rank`` axes."""
    perm = [*range(rank - 2), rank - 1, rank - 2]
    output = ir.Value(name=name, type=value.type)
    if value.shape is not None:
        output.shape = ir.Shape([value.shape[axis] for axis in perm])
    return ir.node("Transpose", [value], {"perm": perm}, outputs=[output], name=name)
