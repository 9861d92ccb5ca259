"""Tokens as [sequence, batch, hidden] inside an encoder, so that attention's heads lie one stride apart.

    x [B, S, C] -> MatMul -> Reshape [B, S, h, d] -> Transpose [B, h, S, d]    becomes
    x -> Transpose [S, B, C] -> MatMul -> Reshape [S, B, h, d] -> Transpose [B, h, S, d]

A fused attention reads batch and heads as one axis. Of [B, S, C] they lie two strides apart, of [S, B, C] one: B * h
matrices, d numbers apart. So TensorRT's compiler transposes the tokens of a float encoder once, where they enter. It
carries no transposition over a QuantizeLinear, though: in the plan of TensorRT 10.6 one of codes stands behind each
norm in front of INT8 products, which keeps that norm from being one kernel. Written out, there is none.

Rules:
1. Heads are split by Reshape to [0, 0, h, d], h or d perhaps -1, and Transpose to (0, 2, 1, 3) or (0, 2, 3, 1); merged
   by Transpose (0, 2, 1, 3) and Reshape to [0, 0, C]. Without a split there is nothing to do. Exporters also write
   sizes that they measure of the tokens (Shape, Gather, Unsqueeze, Concat) for the zeros, and get zeros.
2. What computes token by token takes them in either order: elementwise ops over tokens and constants, products with a
   constant weight, norms, splits and reductions of the last axis, Q and DQ with one scale.
3. Other tensors of rank 3 enter by a Transpose; if one of them has a single row or position and is broadcast, it still
   is. Whatever else reads tokens reads them through a Transpose back; Shape reads what enters as it was.
4. No more than ``MOST`` Transposes: a model that needs more is left as it is, and so is one that breaks rule 3.
5. The numbers are the same to the bit, but for what a runtime makes of the order of rows.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib8.graph.values import insert_behind, name_of, op_of
from calib8.passes.qdq_nodes import Constants

#: Where tokens enter an encoder or leave it: twice each in the models that have more than one stack.
MOST = 4
SPLITS: dict[tuple[int, ...], tuple[int, ...]] = {(0, 2, 1, 3): (1, 2, 0, 3), (0, 2, 3, 1): (1, 2, 3, 0)}
MERGES: dict[tuple[int, ...], tuple[int, ...]] = {(0, 2, 1, 3): (2, 0, 1, 3)}
SWAP = (1, 0, 2)
ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
        *(
            "LeakyRelu",
            "Log",
            "Max",
            "Min",
            "Mish",
            "Mul",
            "Neg",
            "Pow",
            "Reciprocal",
            "Relu",
            "Sigmoid",
            "Sign",
            "Softplus",
        ),
        *("Softsign", "Sqrt", "Sub", "Tanh"),
    )
)
#: Over the last axis, which an attribute names or its default is; of Split and Gather it is another.
LAST_BY_DEFAULT = frozenset(("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"))
LAST_IF_TOLD = frozenset(("Split", "Concat"))
CODES = frozenset(("QuantizeLinear", "DequantizeLinear"))


def sequence_first(model: ir.Model) -> bool:
    """Rewrite the encoders of ``model`` in place, and tell whether there are such.

    Values need shapes where they enter.
    """
    if _zeros_for_measured_sizes(model.graph):
        common.RemoveUnusedNodesPass()(model)
    region = _Region(model.graph)
    if not region.splits or len(region.entries) + len(region.exits()) > MOST or not region.sound():
        return False
    _rewrite(model.graph, region)
    return True


class _Region:
    """The values that hold tokens, and the nodes that compute token by token between them."""

    def __init__(self, graph: ir.Graph) -> None:
        self.splits = [node for node in graph if _splits(node)]
        self.merges = [node for node in graph if _merges(node)]
        self.tokens: set[ir.Value] = set()
        self.nodes: set[ir.Node] = set()
        seeds = [node.inputs[0] for node in self.splits] + [node.outputs[0] for node in self.merges]
        self._spread([value for value in seeds if value is not None])
        self.entries = [value for value in self.tokens if value.producer() not in (*self.nodes, *self.merges)]

    def exits(self) -> list[ir.Value]:
        """Tokens that something outside reads, or that are outputs of the model."""
        return [value for value in self.tokens if value.is_graph_output() or any(True for _ in self.outside(value))]

    def outside(self, value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
        """Who reads ``value`` and takes it in one order only, but for what reads its shape where it enters."""
        for reader, index in value.uses():
            measures = op_of(reader) == "Shape" and value in self.entries
            if not measures and reader not in self.nodes and reader not in self.splits:
                yield reader, index

    def sound(self) -> bool:
        """Rule 3."""
        measuring = any(
            node.inputs[1] is None or node.inputs[1].const_value is None for node in self.splits + self.merges
        )
        return not measuring and all(_rank(value) == 3 for value in self.entries)

    def _spread(self, values: list[ir.Value]) -> None:
        while values:
            value = values.pop()
            if value in self.tokens:
                continue
            self.tokens.add(value)
            beside = [value.producer(), *(reader for reader, _ in value.uses())]
            for node in beside:
                if node is not None and node not in self.nodes and (moved := _token_by_token(node)):
                    self.nodes.add(node)
                    values += moved


def _token_by_token(node: ir.Node) -> list[ir.Value]:
    """The tokens that ``node`` reads and gives, if it is of rule 2, else none."""
    op = op_of(node)
    computed = [value for value in node.inputs if value is not None and not _constant(value)]
    constants = [value for value in node.inputs if value is not None and _constant(value)]
    if not computed:
        return []
    if op == "MatMul":
        fits = node.inputs[0] is computed[0] and len(computed) == 1 and _rank(constants[0]) == 2
    elif op in CODES:
        fits = all(_rank(value) == 0 for value in constants)
    elif op in ELEMENTWISE:
        fits = all(_same_for_all(value) for value in constants)
    else:
        fits = _over_last_axis(node, op)
    return [*computed, *node.outputs] if fits and all(_rank(value) in (3, None) for value in computed) else []


def _over_last_axis(node: ir.Node, op: str) -> bool:
    axis = node.attributes.get_int("axis", -1 if op in LAST_BY_DEFAULT else 0)
    if op in LAST_BY_DEFAULT or op in LAST_IF_TOLD:
        return axis in (-1, 2)
    if op == "Gather":
        return (
            axis in (-1, 2) and node.inputs[1] is not None and _rank(node.inputs[1]) == 1 and _constant(node.inputs[1])
        )
    if op.startswith("Reduce") and node.attributes.get_int("keepdims", 1) == 1:
        told = node.attributes.get_ints("axes")
        if (
            told is None
            and len(node.inputs) > 1
            and node.inputs[1] is not None
            and node.inputs[1].const_value is not None
        ):
            told = node.inputs[1].const_value.numpy().tolist()
        return told is not None and list(told) in ([-1], [2])
    return False


def _splits(node: ir.Node) -> bool:
    """Is ``node`` the Reshape that splits heads, and a Transpose of rule 1 all that reads it?"""
    target, readers = _target(node), [reader for reader, _ in node.outputs[0].uses()]
    if len(target) != 4 or target[:2] != [0, 0] or node.outputs[0].is_graph_output():
        return False
    return bool(readers) and all(_permutation(reader) in SPLITS for reader in readers)


def _merges(node: ir.Node) -> bool:
    """Is ``node`` the Reshape that merges heads, behind a Transpose of rule 1 that nothing else reads?"""
    target = _target(node)
    before = node.inputs[0].producer() if target and node.inputs[0] is not None else None
    if before is None or len(target) != 3 or target[:2] != [0, 0]:
        return False
    alone = len(list(before.outputs[0].uses())) == 1 and not before.outputs[0].is_graph_output()
    return alone and _permutation(before) in MERGES


def _target(node: ir.Node) -> list[int]:
    """The shape that a Reshape is to, 0 for what it copies or measures at the same place; empty if it is another."""
    if op_of(node) != "Reshape" or node.attributes.get_int("allowzero") or node.inputs[1] is None:
        return []
    if (constant := node.inputs[1].const_value) is not None:
        return [int(size) for size in constant.numpy()]
    joined = node.inputs[1].producer()
    if joined is None or op_of(joined) != "Concat":
        return []
    sizes = [_size(part, place) for place, part in enumerate(joined.inputs)]
    return [] if None in sizes else [size for size in sizes if size is not None]


def _size(part: ir.Value | None, place: int) -> int | None:
    """A constant size, or 0 for that of some tensor's axis ``place``."""
    constant = part.const_value if part is not None else None
    if constant is not None:
        return int(constant.numpy().reshape(())) if constant.size == 1 else None
    return None if _measured(part, place) is None else 0


def _measured(part: ir.Value | None, place: int) -> ir.Value | None:
    """The tensor whose axis ``place`` has the size ``part``: Unsqueeze of Gather of its Shape."""
    nodes: list[ir.Node] = []
    for op in ("Unsqueeze", "Gather", "Shape"):
        node = part.producer() if part is not None else None
        if node is None or op_of(node) != op:
            return None
        part = node.inputs[0]
        nodes.append(node)
    index = nodes[1].inputs[1].const_value if nodes[1].inputs[1] is not None else None
    whole = not {"start", "end"} & set(nodes[2].attributes)
    return part if whole and index is not None and index.size == 1 and int(index.numpy().reshape(())) == place else None


def _zeros_for_measured_sizes(graph: ir.Graph) -> int:
    """Let Reshapes that split or merge heads copy the sizes that they measure of tokens. How many do so now."""
    region, constants, done = _Region(graph), Constants(graph), 0
    for node in (*region.splits, *region.merges):
        joined = node.inputs[1].producer() if node.inputs[1] is not None else None
        parts = enumerate(joined.inputs) if joined is not None else ()
        measured = [_measured(part, place) for place, part in parts if part is not None and part.const_value is None]
        if measured and all(value in region.tokens for value in measured):
            target = constants.new(f"{node.name}_shape", np.array(_target(node), np.int64))
            node.replace_input_with(1, target)
            done += 1
    return done


def _permutation(node: ir.Node) -> tuple[int, ...]:
    told = node.attributes.get_ints("perm") if op_of(node) == "Transpose" else None
    return tuple(told or ())


def _constant(value: ir.Value) -> bool:
    """A constant, or what Casts and a DequantizeLinear make of one: a weight."""
    node = value.producer()
    if node is None:
        return value.const_value is not None
    return op_of(node) in ("Cast", "DequantizeLinear") and node.inputs[0] is not None and _constant(node.inputs[0])


def _same_for_all(value: ir.Value) -> bool:
    """Does a constant have no axis of batch or sequence?"""
    shape = value.shape if value.const_value is None else value.const_value.shape
    return shape is not None and all(size == 1 for size in list(shape)[:-1])


def _rank(value: ir.Value) -> int | None:
    shape = value.shape if value.const_value is None else value.const_value.shape
    return None if shape is None else len(shape)


def _rewrite(graph: ir.Graph, region: _Region) -> None:
    constants = Constants(graph)
    for value in sorted(region.exits(), key=name_of):
        if value not in region.entries:
            _leave(graph, constants, value, list(region.outside(value)))
    for value in sorted(region.entries, key=name_of):
        _enter(graph, constants, value, region)
    for node in region.splits:
        for reader, _ in node.outputs[0].uses():
            reader.attributes["perm"] = ir.AttrInt64s("perm", SPLITS[_permutation(reader)])
        node.outputs[0].shape = None
    for node in region.merges:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert before is not None
        before.attributes["perm"] = ir.AttrInt64s("perm", MERGES[_permutation(before)])
        before.outputs[0].shape = None
    for value in region.tokens:
        if value not in region.entries and value.shape is not None and not value.is_graph_output():
            value.shape = ir.Shape([value.shape[index] for index in SWAP])


def _leave(graph: ir.Graph, constants: Constants, value: ir.Value, outside: list[tuple[ir.Node, int]]) -> None:
    """A Transpose back for whoever reads ``value`` outside; an output of the model keeps its name."""
    back = _swapped(graph, constants, value, "batch_first")
    for reader, index in outside:
        reader.replace_input_with(index, back)
    for index, output in enumerate(graph.outputs):
        if output is value:
            name, value.name = name_of(value), constants.free(f"{value.name}_sequence_first")
            back.name = name
            graph.outputs[index] = back


def _enter(graph: ir.Graph, constants: Constants, value: ir.Value, region: _Region) -> None:
    uses = [(reader, index) for reader, index in value.uses() if reader in region.nodes or reader in region.splits]
    swapped = _swapped(graph, constants, value, "sequence_first")
    for reader, index in uses:
        reader.replace_input_with(index, swapped)


def _swapped(graph: ir.Graph, constants: Constants, value: ir.Value, suffix: str) -> ir.Value:
    name = constants.free(f"{value.name}_{suffix}")
    shape = None if value.shape is None else ir.Shape([value.shape[index] for index in SWAP])
    output = ir.Value(name=name, type=value.type, shape=shape)
    node = ir.node("Transpose", [value], {"perm": list(SWAP)}, outputs=[output], name=f"{name}_Transpose")
    insert_behind(graph, value, node)
    return output
