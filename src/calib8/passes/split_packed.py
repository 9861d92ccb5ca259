"""Queries, keys and values that one product makes side by side become products of their own.

TensorRT makes no INT8 kernel of a product whose columns are taken apart behind it (TensorRT-RTX 1.7: a float one that
reads the codes), and merges products of one tensor that stand side by side.

Rules:
1. A MatMul with a constant matrix whose result goes to a Split, or to several Gathers or Slices, alone and through
   nothing but an Add, Mul, Reshape or Transpose, becomes as many products, of the matrix's columns in order.
2. A Concat puts their columns together again, so the numbers are the same whatever is done with them; what is behind
   stays as it is, but for a Split of the very same parts, which goes with the Concat.
"""

import numpy as np
import onnx_ir as ir

from calib8.graph.values import drop_unread, name_of, op_of, readers_of
from calib8.graph.weighted import WeightedOp, weighted_ops

#: Rule 1.
THROUGH = ("Add", "Mul", "Reshape", "Transpose")
APART = ("Gather", "Slice")
#: A packed product has no more parts than these.
MOST = 4


def split_packed(model: ir.Model) -> ir.Model:
    """Apply the rules to the prepared ``model``, in place, and return it."""
    for op in weighted_ops(model):
        if op.kind == "MatMul" and (sizes := _parts(op)):
            _split(model.graph, op, sizes)
    return model


def _parts(op: WeightedOp) -> list[int]:
    """How many columns each part has; none if the op is not packed."""
    node = op.node
    while len(readers := readers_of(node)) == 1 and op_of(readers[0]) in THROUGH:
        node = readers[0]
    if any(output.is_graph_output() for output in node.outputs):
        return []
    columns = int(op.weight.const_value.shape.numpy()[1]) if op.weight.const_value is not None else 0
    kinds = {op_of(reader) for reader in readers}
    count = len(readers) if kinds and kinds <= set(APART) else 0
    if kinds == {"Split"} and len(readers) == 1:
        count = len(readers[0].outputs)
        given = readers[0].inputs[1] if len(readers[0].inputs) > 1 else None
        sizes = given.const_value.numpy().tolist() if given is not None and given.const_value is not None else []
        if sum(sizes) == columns and count <= MOST:
            return [int(size) for size in sizes]
    return [columns // count] * count if 2 <= count <= MOST and columns % count == 0 else []


def _split(graph: ir.Graph, op: WeightedOp, sizes: list[int]) -> None:
    matrix, whole = op.weight_array(), op.node.outputs[0]
    products = []
    for number, columns in enumerate(np.split(matrix, np.cumsum(sizes)[:-1], axis=1)):
        name = f"{op.name}::{number}"
        weight = ir.val(f"{op.weight.name}::{name}", const_value=ir.tensor(np.ascontiguousarray(columns)))
        graph.register_initializer(weight)
        shape = None if whole.shape is None else ir.Shape([*whole.shape[:-1], sizes[number]])
        output = ir.Value(name=f"{whole.name}::{number}", type=whole.type, shape=shape)
        products.append(ir.node("MatMul", [op.activation, weight], outputs=[output], name=name))
    joined = ir.Value(name=f"{whole.name}::joined", type=whole.type, shape=whole.shape)
    outputs = [product.outputs[0] for product in products]
    concat = ir.node("Concat", outputs, {"axis": -1}, outputs=[joined], name=f"{op.name}::joined")
    graph.insert_after(op.node, [*products, concat])
    whole.replace_all_uses_with(joined)
    graph.remove(op.node, safe=True)
    joined.name = name_of(whole)
    drop_unread(graph, op.weight)
    if [op_of(reader) for reader in readers_of(concat)] == ["Split"]:
        _drop_split(graph, concat, readers_of(concat)[0], sizes)


def _drop_split(graph: ir.Graph, concat: ir.Node, split: ir.Node, sizes: list[int]) -> None:
    """Rule 2, where the Split gives back the very parts."""
    given = split.inputs[1] if len(split.inputs) > 1 else None
    same = given is None or (given.const_value is not None and given.const_value.numpy().tolist() == sizes)
    joined = concat.outputs[0]
    last = joined.shape is not None and split.attributes.get_int("axis", 0) in (-1, len(joined.shape) - 1)
    if not same or not last or any(output.is_graph_output() for output in split.outputs):
        return
    for part, output in zip(concat.inputs, split.outputs, strict=True):
        assert part is not None
        output.replace_all_uses_with(part)
    graph.remove([split, concat], safe=True)
