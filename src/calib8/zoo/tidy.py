"""Clean an ONNX graph that PyTorch's exporter traced: same numbers, a third of the nodes, names a person can read.

1. Identity nodes go, Constant nodes become initializers. Equal ones stay apart: a pass may change those of one layer.
2. A Reshape that computes its target shape from tensors with the same leading dimensions gets a constant target in
   which 0 means "as in the input" (ONNX Reshape, ``allowzero=0``).
3. What nobody reads any more is removed.
4. A transposed weight called ``onnx::MatMul_123`` is named after the layer that uses it: ``<layer>.weight.T``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common


def tidy(model: ir.Model) -> None:
    """Apply rules 1 to 4 in place."""
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        if node.op_type == "Reshape":
            _make_target_constant(node, model.graph)
    common.RemoveUnusedNodesPass()(model)
    _name_weights(model.graph)


def _make_target_constant(node: ir.Node, graph: ir.Graph) -> None:
    """Rule 2. Leaves the node alone unless every element of the target is known."""
    data, shape = node.inputs
    concat = None if shape is None else shape.producer()
    if data is None or concat is None or concat.op_type != "Concat":
        return
    target: list[int] = []
    for position, part in enumerate(concat.inputs):
        constant = _constant(part)
        if constant is not None:
            target.extend(int(item) for item in constant.ravel())
        elif position == len(target) and _is_dimension(part, position, _same_leading_dimensions(data)):
            target.append(0)
        else:
            return
    value = ir.Value(name=f"{node.name}_shape", const_value=ir.tensor(np.array(target, dtype=np.int64)))
    value.dtype, value.shape = ir.DataType.INT64, ir.Shape([len(target)])
    graph.initializers.add(value)
    node.replace_input_with(1, value)


def _same_leading_dimensions(value: ir.Value) -> list[ir.Value]:
    """``value`` and what it was computed from, back through linear layers: all dimensions but the last are the same."""
    chain = [value]
    while (node := chain[-1].producer()) is not None:
        if node.op_type == "MatMul" and _rank(node.inputs[1]) == 2:
            source = node.inputs[0]
        elif node.op_type == "Add" and 1 in (_rank(node.inputs[0]), _rank(node.inputs[1])):
            source = node.inputs[1] if _rank(node.inputs[0]) == 1 else node.inputs[0]
        else:
            break
        if source is None:
            break
        chain.append(source)
    return chain


def _is_dimension(value: ir.Value | None, axis: int, sources: list[ir.Value]) -> bool:
    """Is ``value`` Unsqueeze(Gather(Shape(x), axis)) of one of ``sources``?"""
    unsqueeze = None if value is None else value.producer()
    if unsqueeze is None or unsqueeze.op_type != "Unsqueeze" or unsqueeze.inputs[0] is None:
        return False
    gather = unsqueeze.inputs[0].producer()
    if gather is None or gather.op_type != "Gather" or gather.inputs[0] is None:
        return False
    index = _constant(gather.inputs[1])
    shape = gather.inputs[0].producer()
    return (
        index is not None
        and int(index) == axis
        and shape is not None
        and shape.op_type == "Shape"
        and any(shape.inputs[0] is source for source in sources)
    )


def _constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _rank(value: ir.Value | None) -> int | None:
    """Number of dimensions of an initializer; None for anything else."""
    return None if value is None or value.const_value is None else len(value.const_value.shape)


def _name_weights(graph: ir.Graph) -> None:
    """Rule 4: ``/encoder/layer.0/output/dense/MatMul`` reads ``encoder.layer.0.output.dense.weight.T``."""
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if node.name and weight is not None and weight.is_initializer() and str(weight.name).startswith("onnx::"):
            name = node.name.removesuffix("/MatMul").strip("/").replace("/", ".") + ".weight.T"
            if name not in graph.initializers:
                weight.name = name
