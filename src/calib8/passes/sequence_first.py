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
   sizes that they measure of the tokens (Shape, Gather, Unsqueeze, Concat) for the zeros, and get zeros, or -1 for the
   second of them.
2. What computes token by token takes them in either order: elementwise ops over tokens and constants, products with a
   constant weight, norms, splits and reductions of the last axis, Q and DQ with one scale.
3. Other tensors of rank 3 enter by a Transpose; if one of them has a single row or position and is broadcast, it still
   is. Whatever else reads tokens reads them through a Transpose back, what stands in the body of an If or a Loop, too;
   Shape reads what enters as it was.
4. No more than ``MOST`` Transposes. Where that takes it, tokens enter behind the ops that add up embeddings and leave
   in front of those that pool them; a model that needs more all the same is left as it is, and so is one that breaks
   rule 3.
5. The numbers are the same to the bit, but for what a runtime makes of the order of rows.
"""

from math import prod

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
        *("LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign"),
        *("Softplus", "Softsign", "Sqrt", "Sub", "Tanh"),
    )
)
NORMS = frozenset(("LayerNormalization", "RMSNormalization"))
#: Over an axis that an attribute names. Softmax's default has changed, Split's and Gather's is the first.
LAST_IF_TOLD = frozenset(("Concat", "LogSoftmax", "Softmax", "Split"))
CODES = frozenset(("QuantizeLinear", "DequantizeLinear"))


def sequence_first(model: ir.Model) -> bool:
    """Rewrite the encoders of ``model`` in place, and tell whether there are such.

    Values need shapes where they enter.
    """
    if _zeros_for_measured_sizes(model.graph):
        common.RemoveUnusedNodesPass()(model)
    region = _Region(model.graph)
    if region.transposes() > MOST:
        region.narrow()
    if not region.splits or region.transposes() > MOST or not region.sound():
        return False
    _rewrite(model.graph, region)
    return True


class _Region:
    """The values that hold tokens, and the nodes that compute token by token between them."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.splits = [node for node in graph if _splits(node)]
        self.merges = [node for node in graph if _merges(node, self.splits)]
        self.nodes: set[ir.Node] = set()
        #: Every value of tokens, and which of them belong together: those of one stack.
        self.tokens: dict[ir.Value, int] = {}
        seeds = [node.inputs[0] for node in self.splits] + [node.outputs[0] for node in self.merges]
        for stack, value in enumerate(seeds):
            self._spread(value, stack)

    def entries(self) -> list[ir.Value]:
        """Tokens that something outside gives."""
        return [value for value in self.tokens if self._enters(value)]

    def exits(self) -> list[ir.Value]:
        """Tokens computed inside that something outside reads, or that are outputs of the model."""
        return [value for value in self.tokens if self._leaves(value)]

    def inside(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """Who reads ``value`` in either order."""
        return [use for use in value.uses() if use[0] in self.nodes or use[0] in self.splits]

    def outside(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """Who reads ``value`` and takes it in one order only."""
        return [use for use in value.uses() if use[0] not in self.nodes and use[0] not in self.splits]

    def transposes(self) -> int:
        """How many it takes."""
        return sum(self._cost(value) for value in self.tokens)

    def narrow(self) -> None:
        """Rule 4: leave out what needs more Transposes inside than outside."""
        while sum(self._leave_out(node) for node in self.graph if node in self.nodes):
            pass
        self.tokens = {value: stack for value, stack in self.tokens.items() if self._given(value) or self.inside(value)}

    def sound(self) -> bool:
        """Rule 3, and no Reshape that measures."""
        measuring = any(node.inputs[1].const_value is None for node in self.splits + self.merges if node.inputs[1])
        moved = [node.inputs[0] for node in self.merges if node.inputs[0] is not None]
        read_once = all(len(value.uses()) == 1 for value in moved)
        return not measuring and read_once and all(_rank(value) == 3 for value in self.entries())

    def _given(self, value: ir.Value) -> bool:
        return value.producer() in self.nodes or value.producer() in self.merges

    def _enters(self, value: ir.Value) -> bool:
        return not self._given(value) and bool(self.inside(value))

    def _leaves(self, value: ir.Value) -> bool:
        return self._given(value) and (value.is_graph_output() or bool(self.outside(value)))

    def _cost(self, value: ir.Value) -> int:
        return int(self._enters(value) or self._leaves(value))

    def _leave_out(self, node: ir.Node) -> bool:
        """Leave ``node`` out of the region if that spares a Transpose. Was it?"""
        touched = set(_token_by_token(node))
        before = sum(map(self._cost, touched))
        self.nodes.remove(node)
        if sum(map(self._cost, touched)) < before:
            return True
        self.nodes.add(node)
        return False

    def _spread(self, seed: ir.Value | None, stack: int) -> None:
        values = [seed]
        while values:
            value = values.pop()
            if value is None or value in self.tokens:
                continue
            self.tokens[value] = stack
            for node in (value.producer(), *(reader for reader, _ in value.uses())):
                if node is None or node.graph is not self.graph or node in self.nodes:
                    continue
                if moved := _token_by_token(node):
                    self.nodes.add(node)
                    values += moved


def _token_by_token(node: ir.Node) -> list[ir.Value]:
    """The tokens that ``node`` reads and gives, if it is of rule 2, else none."""
    op = op_of(node)
    computed = [value for value in node.inputs if value is not None and not _constant(value)]
    constants = [value for value in node.inputs if value is not None and _constant(value)]
    if not computed or not all(_rank(value) in (3, None) for value in computed):
        return []
    if op in ELEMENTWISE:
        fits = all(_same_for_all(value) for value in constants)
    elif node.inputs[0] is not computed[0] or (len(computed) > 1 and op != "Concat"):
        fits = False  # the one that is computed is what comes token by token
    elif op == "MatMul":
        fits = _rank(constants[0]) == 2
    elif op in CODES:
        fits = all(_rank(value) == 0 for value in constants)
    else:
        fits = _over_last_axis(node, op, constants)
    return [*computed, *node.outputs] if fits else []


def _over_last_axis(node: ir.Node, op: str, constants: list[ir.Value]) -> bool:
    last = node.attributes.get_int("axis", -1 if op in NORMS else 0) in (-1, 2)
    if op in NORMS:
        return last and all(_same_for_all(value) for value in constants)
    if op == "Concat":
        return last and not constants
    if op in LAST_IF_TOLD:
        return last
    if op == "Gather":
        return last and _rank(constants[0]) == 1
    if op.startswith("Reduce") and node.attributes.get_int("keepdims", 1) == 1:
        told = node.attributes.get_ints("axes")
        if told is None and constants and constants[0].const_value is not None:
            told = constants[0].const_value.numpy().tolist()
        return told is not None and list(told) in ([-1], [2])
    return False


def _splits(node: ir.Node) -> bool:
    """Is ``node`` the Reshape that splits heads, and a Transpose of rule 1 all that reads it?"""
    target, readers = _target(node), [reader for reader, _ in node.outputs[0].uses()]
    if len(target) != 4 or target[:2] != [0, 0] or node.outputs[0].is_graph_output():
        return False
    return bool(readers) and all(_permutation(reader) in SPLITS for reader in readers)


def _merges(node: ir.Node, splits: list[ir.Node]) -> bool:
    """Is ``node`` the Reshape that merges heads, behind a Transpose of rule 1 that nothing else reads but Shape?"""
    target = _target(node)
    before = node.inputs[0].producer() if target and node.inputs[0] is not None else None
    if before is None or len(target) != 3 or target[:2] != [0, 0] or _permutation(before) not in MERGES:
        return False
    others = [reader for reader, _ in before.outputs[0].uses() if reader is not node]
    alone = all(op_of(reader) == "Shape" for reader in others) and not before.outputs[0].is_graph_output()
    return alone and before.inputs[0] is not None and before.inputs[0].producer() not in splits


def _target(node: ir.Node) -> list[int]:
    """The shape that a Reshape is to, 0 for what it copies or measures at the same place; empty if it is another."""
    if op_of(node) != "Reshape" or node.attributes.get_int("allowzero") or node.inputs[1] is None:
        return []
    if (constant := node.inputs[1].const_value) is not None:
        sizes: list[int | None] = [int(size) for size in constant.numpy()]
    else:
        joined = node.inputs[1].producer()
        if joined is None or op_of(joined) != "Concat":
            return []
        sizes = [_size(part, place) for place, part in enumerate(joined.inputs)]
    if -1 in sizes[:2] and _keeps_the_rest(node, sizes[2:]):
        sizes[sizes.index(-1)] = 0
    return [] if None in sizes else [size for size in sizes if size is not None]


def _keeps_the_rest(node: ir.Node, sizes: list[int | None]) -> bool:
    """Do ``sizes`` hold as many numbers as a Reshape reads behind its second axis?

    Then a -1 for one of the two before is the size that there was, as the other is copied.
    """
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    read = [size if isinstance(size, int) else None for size in list(shape or ())[2:]]
    count = _numbers(sizes)
    return bool(read) and count is not None and _numbers(read) == count


def _numbers(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None and size > 0]
    return prod(known) if len(known) == len(sizes) else None


def _size(part: ir.Value | None, place: int) -> int | None:
    """A constant size, or 0 for that of some tensor's axis ``place``."""
    constant = part.const_value if part is not None else None
    if constant is not None:
        return int(constant.numpy().reshape(())) if constant.size == 1 else None
    return None if _measured(part, place) is None else 0


def _measured(part: ir.Value | None, place: int) -> ir.Value | None:
    """The tensor whose axis ``place`` has the size ``part``, a number on its own, whatever its rank."""
    node = part.producer() if part is not None else None
    while node is not None and op_of(node) in ("Cast", "Reshape", "Squeeze", "Unsqueeze"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None:
        return None
    if op_of(node) == "Shape":
        wanted = (node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)) == (place, place + 1)
        return node.inputs[0] if wanted else None
    shape = node.inputs[0].producer() if op_of(node) == "Gather" and node.inputs[0] is not None else None
    if shape is None or op_of(shape) != "Shape" or {"start", "end"} & set(shape.attributes):
        return None
    index = node.inputs[1].const_value if node.inputs[1] is not None else None
    wanted = index is not None and index.size == 1 and int(index.numpy().reshape(())) == place
    return shape.inputs[0] if wanted else None


def _zeros_for_measured_sizes(graph: ir.Graph) -> int:
    """Let Reshapes that split or merge heads copy what they measure of themselves or their stack. How many do so now.

    Of a tensor that is broadcast, with one row or position, a size would be another's.
    """
    region, constants, done = _Region(graph), Constants(graph), 0
    for node, tokens in [(n, n.inputs[0]) for n in region.splits] + [(n, n.outputs[0]) for n in region.merges]:
        target, stack = node.inputs[1], region.tokens[tokens] if tokens is not None else None
        joined = target.producer() if target is not None else None
        places = [(place, part) for place, part in enumerate(joined.inputs if joined else ()) if part is not None]
        measured = [(_measured(part, place), place) for place, part in places if part.const_value is None]
        own = [value is node.inputs[0] or _of_stack(region, value, place, stack) for value, place in measured]
        if own and all(own):
            node.replace_input_with(1, constants.new(f"{node.name}_shape", np.array(_target(node), np.int64)))
            done += 1
    return done


def _of_stack(region: _Region, value: ir.Value | None, place: int, stack: int | None) -> bool:
    whole = value is not None and value.shape is not None and value.shape[place] != 1
    return whole and value is not None and region.tokens.get(value) == stack


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
    """Does a constant have no axis of batch or sequence, nor give tokens one more?"""
    shape = value.shape if value.const_value is None else value.const_value.shape
    return shape is not None and len(shape) <= 3 and all(size == 1 for size in list(shape)[:-1])


def _rank(value: ir.Value) -> int | None:
    shape = value.shape if value.const_value is None else value.const_value.shape
    return None if shape is None else len(shape)


def _rewrite(graph: ir.Graph, region: _Region) -> None:
    constants, entries, exits = Constants(graph), region.entries(), region.exits()
    for value in region.tokens:
        if value not in entries:
            value.shape = _swapped(value.shape)
    for value in sorted(exits, key=name_of):
        _leave(graph, constants, value, region.outside(value))
    for value in sorted(entries, key=name_of):
        _enter(graph, constants, value, region.inside(value))
    for node in region.splits:
        for reader, _ in node.outputs[0].uses():
            reader.attributes["perm"] = ir.AttrInt64s("perm", SPLITS[_permutation(reader)])
        node.outputs[0].shape = None
    for node in region.merges:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        assert before is not None
        before.attributes["perm"] = ir.AttrInt64s("perm", MERGES[_permutation(before)])
        before.outputs[0].shape = None


def _leave(graph: ir.Graph, constants: Constants, value: ir.Value, outside: list[tuple[ir.Node, int]]) -> None:
    """A Transpose back for whoever reads ``value`` outside; an output of the model keeps its name."""
    back = _transposed(graph, constants, value, "batch_first")
    for reader, index in outside:
        reader.replace_input_with(index, back)
    for index, output in enumerate(graph.outputs):
        if output is value:
            name, value.name = name_of(value), constants.free(f"{value.name}_sequence_first")
            back.name = name
            graph.outputs[index] = back


def _enter(graph: ir.Graph, constants: Constants, value: ir.Value, inside: list[tuple[ir.Node, int]]) -> None:
    swapped = _transposed(graph, constants, value, "sequence_first")
    for reader, index in inside:
        reader.replace_input_with(index, swapped)


def _transposed(graph: ir.Graph, constants: Constants, value: ir.Value, suffix: str) -> ir.Value:
    name = constants.free(f"{value.name}_{suffix}")
    output = ir.Value(name=name, type=value.type, shape=_swapped(value.shape))
    node = ir.node("Transpose", [value], {"perm": list(SWAP)}, outputs=[output], name=f"{name}_Transpose")
    insert_behind(graph, value, node)
    return output


def _swapped(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[index] for index in SWAP])
