"""Queries, keys and values that one product makes side by side become products of their own.

TensorRT makes no INT8 kernel of a product whose columns are taken apart behind it (TensorRT-RTX 1.7: a float one that
reads the codes), and merges products of one tensor that stand side by side.

Rules:
1. A MatMul or Gemm with a constant matrix whose result goes to a Split, or to several Gathers or Slices, alone and
   through nothing but an Add, Mul, Reshape or Transpose, becomes as many products, of the matrix's columns in order. A
   Gemm's are of tokens where a Reshape is among these; the gates of an unrolled LSTM stay one, which is INT8 as it is.
2. A Concat puts their columns together again, so the numbers are the same whatever is done with them; what is behind
   stays as it is, but for a Split of the very same parts, which goes with the Concat.
3. Bounds that are computed from the number of columns, as torch.chunk's are when it is traced, become constants.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib8.graph.values import drop_unread, drop_unread_node, name_of, op_of, readers_of
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.passes.fold_constants import COMPUTES, MOVES, fold

#: Rule 1.
THROUGH = ("Add", "Mul", "Reshape", "Transpose")
APART = ("Gather", "Slice")
#: A packed product has no more parts than these.
MOST = 4


def split_packed(model: ir.Model) -> ir.Model:
    """Apply the rules to the main graph of the prepared ``model``, in place, and return it."""
    products = [op for op in weighted_ops(model) if op.kind in ("MatMul", "Gemm") and _bias(op) is not None]
    if sum(_know_columns(model, op) for op in products):  # rule 3
        common.ShapeInferencePass(strict_mode=False)(model)
    for op in products:
        if sizes := _parts(op):
            _split(model.graph, op, sizes)
    return model


def _know_columns(model: ir.Model, op: WeightedOp) -> bool:
    """Apply rule 3 to what reads ``op``. Whether anything did."""
    node, found = op.node, False
    while _columns(op) > 1:  # a single one may be broadcast by what is added
        shapes = [reader for reader in readers_of(node) if op_of(reader) == "Shape" and reader.graph is model.graph]
        for shape in shapes:
            sizes = [reader for reader in readers_of(shape) if reader.graph is model.graph]
            for size in [reader for reader in sizes if _is_last(reader, node.outputs[0])]:
                index = size.inputs[1].const_value if size.inputs[1] is not None else None
                assert index is not None
                _fold_behind(model, size, np.full(index.shape.numpy(), _columns(op), np.int64))
                found = True
            drop_unread_node(model.graph, shape.outputs[0])
        readers = _readers(node)
        if len(readers) != 1 or op_of(readers[0]) not in ("Add", "Mul"):
            break
        node = readers[0]
    return found


def _is_last(node: ir.Node, value: ir.Value) -> bool:
    """Does ``node`` take the size of the last axis out of the shape of ``value``?"""
    index = node.inputs[1].const_value if op_of(node) == "Gather" and node.inputs[1] is not None else None
    shape = node.inputs[0].producer() if node.inputs[0] is not None else None
    if index is None or index.size != 1 or shape is None or shape.attributes:  # of a Shape: start and end
        return False
    return int(index.numpy().reshape(())) in ((-1,) if value.shape is None else (-1, len(value.shape) - 1))


def _fold_behind(model: ir.Model, node: ir.Node, array: np.ndarray) -> None:
    """Put ``array`` in the place of ``node``, and compute what reads nothing but constants then."""
    constant = ir.val(f"{node.outputs[0].name}::columns", const_value=ir.tensor(array))
    model.graph.register_initializer(constant)
    todo = readers_of(node)
    node.outputs[0].replace_all_uses_with(constant)
    model.graph.remove(node, safe=True)
    while todo:
        node = todo.pop()
        constants = all(value is None or value.const_value is not None for value in node.inputs)
        if node.graph is model.graph and constants and op_of(node) in (*MOVES, *COMPUTES):
            todo += readers_of(node)
            fold(model, node)


def _columns(op: WeightedOp) -> int:
    return int(op.weight.const_value.shape.numpy()[op.channel_axis]) if op.weight.const_value is not None else 0


def _bias(op: WeightedOp) -> list[ir.Value] | None:
    """What a Gemm adds, if anything; None if that is not a constant for each column, or one for all."""
    bias = op.node.inputs[2] if len(op.node.inputs) > 2 else None
    if bias is None:
        return []
    constant = bias.const_value
    if constant is None or (constant.size != 1 and list(constant.shape.numpy())[-1:] != [constant.size]):
        return None
    return [bias] if constant.size in (1, _columns(op)) else None


def _readers(node: ir.Node) -> list[ir.Node]:
    """Who reads ``node``, but for its size; nobody if a body of an If or Loop does."""
    readers = [reader for reader in readers_of(node) if op_of(reader) != "Shape"]
    return readers if all(reader.graph is node.graph for reader in readers) else []


def _parts(op: WeightedOp) -> list[int]:
    """How many columns each part has; none if the op is not packed."""
    node, through = op.node, set[str]()
    while len(readers := _readers(node)) == 1 and op_of(readers[0]) in THROUGH:
        node = readers[0]
        through.add(op_of(node))
    if any(output.is_graph_output() for output in node.outputs) or (op.kind == "Gemm" and "Reshape" not in through):
        return []
    columns = _columns(op)
    kinds = {op_of(reader) for reader in readers}
    if kinds == {"Slice"} and (sizes := _sliced(readers, columns)):
        return sizes
    count = len(readers) if kinds and kinds <= set(APART) else 0
    if kinds == {"Split"} and len(readers) == 1:
        count = len(readers[0].outputs)
        given = readers[0].inputs[1] if len(readers[0].inputs) > 1 else None
        sizes = given.const_value.numpy().tolist() if given is not None and given.const_value is not None else []
        if sum(sizes) == columns and count <= MOST:
            return [int(size) for size in sizes]
    return [columns // count] * count if 2 <= count <= MOST and columns % count == 0 else []


def _sliced(readers: list[ir.Node], columns: int) -> list[int]:
    """The columns between the bounds of all Slices of the last axis; none if a bound is unknown or there are many."""
    bounds = {0, columns}
    for reader in readers:
        whole, *told = reader.inputs
        constants = [value.const_value for value in told if value is not None and value.const_value is not None]
        values = [constant.numpy().tolist() for constant in constants]
        if len(values) != len(told) or len(told) < 3:
            return []
        if whole is None or whole.shape is None or whole.shape[-1] != columns:
            return []
        if values[2] not in ([-1], [len(whole.shape) - 1]) or values[3:] not in ([], [[1]]):
            return []
        taken = range(columns)[slice(values[0][0], values[1][0])]
        bounds |= {taken.start, taken.stop}
    sizes = np.diff(sorted(bounds)).tolist()
    return sizes if 2 <= len(sizes) <= MOST else []


def _split(graph: ir.Graph, op: WeightedOp, sizes: list[int]) -> None:
    whole, added = op.node.outputs[0], _bias(op) or []
    products = []
    for number, (weight, *bias) in enumerate(_cut(graph, op, [op.weight, *added], sizes)):
        shape = None if whole.shape is None else ir.Shape([*whole.shape[:-1], sizes[number]])
        output = ir.Value(name=f"{whole.name}::{number}", type=whole.type, shape=shape)
        inputs, attributes = [op.activation, weight, *bias], dict(op.node.attributes)
        products.append(ir.node(op.kind, inputs, attributes, outputs=[output], name=f"{op.name}::{number}"))
    joined = ir.Value(name=f"{whole.name}::joined", type=whole.type, shape=whole.shape)
    outputs = [product.outputs[0] for product in products]
    concat = ir.node("Concat", outputs, {"axis": -1}, outputs=[joined], name=f"{op.name}::joined")
    graph.insert_after(op.node, [*products, concat])
    whole.replace_all_uses_with(joined)
    graph.remove(op.node, safe=True)
    joined.name = name_of(whole)
    for constant in {op.weight, *added}:
        drop_unread(graph, constant)
    if [op_of(reader) for reader in readers_of(concat)] == ["Split"]:
        _drop_split(graph, concat, readers_of(concat)[0], sizes)


def _cut(graph: ir.Graph, op: WeightedOp, whole: list[ir.Value], sizes: list[int]) -> Iterator[list[ir.Value]]:
    """The columns of each part of the constants ``whole``: initializers."""
    for number, start in enumerate(np.cumsum([0, *sizes[:-1]]).tolist()):
        parts = []
        for value in whole:
            array = value.const_value.numpy() if value.const_value is not None else np.empty(0)
            if array.size == 1:  # for all columns
                parts.append(value)
                continue
            axis = op.channel_axis if value is op.weight else array.ndim - 1
            columns = np.ascontiguousarray(array.take(range(start, start + sizes[number]), axis))
            parts.append(ir.val(f"{value.name}::{op.name}::{number}", const_value=ir.tensor(columns)))
            graph.register_initializer(parts[-1])
        yield parts


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
