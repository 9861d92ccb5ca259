"""The kernels that TensorRT makes of a float model, or of it in 8 bits, and what each of them moves and multiplies.

Rules, read from plans of TensorRT 10.6 (docs/tensorrt.md):
1. A product is a kernel: MatMul, Gemm, Conv, ConvTranspose. GEMMs with weights that read one tensor in one precision
   are one, as Q, K and V are.
2. A Softmax between two products of computed tensors is one with both and what is elementwise in front of it: fused
   attention, which multiplies in FP16.
3. Other ops that read each other, and have the same number of kernels of rules 1, 2 and 5 in front of them, are one
   kernel: a norm with the residual.
4. Elementwise ones alone are part of the product whose output nobody else reads: bias, GELU, a residual behind a Conv.
   Of FP8 products a function such as GELU is not.
5. What neither works value by value nor row by row, a pooling, say, is a kernel of its own.
6. What only gives values another shape costs nothing, nor does what depends on sizes alone.
7. Q is in the kernel that writes a tensor, which then is one of codes, of a byte; it is written twice if somebody else
   reads it. Two need a kernel for it: an input of the model, and attention, whose INT8 codes are brought in order; the
   times that were measured of FP8 have no room for that.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from math import prod

import onnx_ir as ir

from calib8.engine.groups import ATTENTION, COPY, EMBEDDING, NORM, OTHER, POINTWISE, QUANTISATION
from calib8.errors import ModelError
from calib8.graph.host_driven import KNOWING
from calib8.graph.left_out import QUANTISED
from calib8.graph.shapes import Shape
from calib8.graph.values import MOVING, has_body, op_of
from calib8.graph.weighted import weighted_ops
from calib8.passes.sequence_first import ELEMENTWISE, NORMS
from calib8.precision import Precision

GEMMS, CONVS = ("MatMul", "Gemm"), ("Conv", "ConvTranspose")
PRODUCTS = frozenset((*GEMMS, *CONVS))
FUNCTIONS = frozenset(("Erf", "Gelu", "Sigmoid", "Tanh"))
COMPARISONS = frozenset(("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Where"))
VALUE_BY_VALUE = ELEMENTWISE | COMPARISONS | {"BatchNormalization", "Dropout", "Floor", "PRelu", "Round"}
ROW_BY_ROW = NORMS | {
    *("ArgMax", "Concat", "CumSum", "Gather", "GroupNormalization", "InstanceNormalization", "LogSoftmax"),
    *("LpNormalization", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"),
    *("Softmax", "Split"),
}
#: Ops whose multiplications no rule counts, beside those of other domains and of bodies.
UNKNOWN = ("Einsum", "GRU", "LSTM", "RNN", *QUANTISED)
#: Ops that read no more of their first input than they write.
PICKING = ("Gather", "Slice")
#: Bytes of a number that is computed in floats, and of a code.
HALF, CODE = 2, 1


@dataclass(frozen=True)
class Kernel:
    """``moved``: bytes read and written, ``constant`` those of weights. ``operations``: of products, a multiplication
    and an addition are two.

    group: what it is for, as ``engine.groups`` names it. precision: what its products multiply, None is FP16.
    """

    group: str
    moved: float
    constant: float = 0
    operations: float = 0
    precision: Precision | None = None


def kernels_of(
    model: ir.Model, shapes: Mapping[str, Shape], quantised: Set[str] = frozenset(), precision: Precision = "int8"
) -> list[Kernel]:
    """The kernels of the prepared float ``model`` with the ops named ``quantised`` in 8 bits, the rest in FP16.

    shapes: of every tensor, see ``sizes``; what they leave out takes no time. Raises ``ModelError`` if that is an
    operand of a product, and for ops that no rule knows.
    """
    unknown = next((node for node in model.graph if not op_of(node) or has_body(node) or op_of(node) in UNKNOWN), None)
    if unknown is not None:
        raise ModelError(
            f"node {unknown.name!r} is a {unknown.op_type}, and nothing is known of the kernels that TensorRT makes of "
            "one: the model's time cannot be estimated. Measure it where there is a GPU: calib8 bench."
        )
    return list(_Plan(model, shapes, quantised, precision).kernels())


class _Plan:
    """Which node is in which kernel: nodes of one have the same ``leader``, and ``free`` ones are in none."""

    def __init__(self, model: ir.Model, shapes: Mapping[str, Shape], quantised: Set[str], precision: Precision) -> None:
        self.shapes, self.precision = shapes, precision
        self.nodes = list(_computed(model.graph))
        self.computed = set(self.nodes)
        ops = {op.node: op for op in weighted_ops(model)}
        self.activation = {node: op.activation for node, op in ops.items()}
        self.coded = {node for node, op in ops.items() if op.name in quantised}
        self.leader: dict[ir.Node, ir.Node] = {}
        self.free: set[ir.Node] = set()
        self._lead_products()
        self._lead_attention()
        self._lead_others()

    def _lead_products(self) -> None:
        """Rules 1 and 5."""
        first: dict[tuple[ir.Value, bool], ir.Node] = {}
        for node in self.nodes:
            if op_of(node) in GEMMS and node in self.activation:
                self.leader[node] = first.setdefault((self.activation[node], node in self.coded), node)
            elif op_of(node) not in VALUE_BY_VALUE | ROW_BY_ROW and op_of(node) not in MOVING:
                self.leader[node] = node

    def _lead_attention(self) -> None:
        """Rule 2."""
        for node in self.nodes:
            if op_of(node) == "MatMul" and node not in self.activation:
                weighed = self._chain(node.inputs[0], "Softmax")
                scored = self._chain(weighed[0].inputs[0], "MatMul") if weighed else []
                if scored:
                    self.leader.update(dict.fromkeys([*scored, *weighed, node], node))

    def _chain(self, value: ir.Value | None, kind: str) -> list[ir.Node]:
        """From a node of ``kind`` to what computes ``value``, if what is between is elementwise; else nothing."""
        readers: dict[ir.Node, ir.Node | None] = {}
        todo: list[tuple[ir.Value | None, ir.Node | None]] = [(value, None)]
        while todo:
            read, reader = todo.pop()
            node = read.producer() if read is not None else None
            if node is None or node in readers or node not in self.computed or node in self.activation:
                continue
            readers[node] = reader
            if op_of(node) == kind:
                path = [node]
                while (behind := readers[path[-1]]) is not None:
                    path.append(behind)
                return path
            if op_of(node) in VALUE_BY_VALUE or op_of(node) in MOVING:
                todo += [(one, node) for one in reversed(node.inputs)]
        return []

    def _lead_others(self) -> None:
        """Rules 3, 4 and 6."""
        depth: dict[ir.Node, int] = {}
        alike: dict[ir.Node, set[ir.Node]] = {}  # of nodes that are led by no product, all that are one kernel
        for node in self.nodes:
            before = [value.producer() for value in node.inputs if value is not None]
            known = [one for one in before if one is not None and one in depth]
            depth[node] = max((depth[one] + (one in self.leader) for one in known), default=0)
            if node in self.leader:
                continue
            own = alike[node] = {node}
            for one in known:
                if one in alike and depth[one] == depth[node] and alike[one] is not own:
                    fewer, own = sorted((own, alike[one]), key=len)
                    own |= fewer
                    alike.update(dict.fromkeys(fewer, own))
        for together in {id(nodes): nodes for nodes in alike.values()}.values():
            if all(op_of(node) in MOVING for node in together):
                self.free |= together
            else:
                self.leader.update(dict.fromkeys(together, self._product_before(together) or next(iter(together))))

    def _product_before(self, together: set[ir.Node]) -> ir.Node | None:
        """Rule 4: the last product of which ``together`` is a part."""
        kinds = {op_of(node) for node in together}
        if not all(kind in VALUE_BY_VALUE or kind in MOVING for kind in kinds):
            return None
        read = (value.producer() for node in together for value in node.inputs if value is not None)
        before = {node for node in read if node is not None and op_of(node) in PRODUCTS and node not in together}
        if self.precision == "fp8" and kinds & FUNCTIONS:
            before -= self.coded
        fit = [node for node in self.nodes if node in before and set(_readers(node)) <= together]
        return self.leader[fit[-1]] if fit else None

    def kernels(self) -> Iterator[Kernel]:
        """All of them, in the order of their first nodes."""
        members: dict[ir.Node, list[ir.Node]] = {}
        for node in self.nodes:
            if node not in self.free:
                members.setdefault(self.leader[node], []).append(node)
        for nodes in members.values():
            yield self._kernel(nodes)
        for value in dict.fromkeys(self._source(self.activation[node]) for node in self.nodes if node in self.coded):
            producer = value.producer()
            if producer is None or producer not in self.computed:
                yield Kernel(QUANTISATION, self._size(value) * (HALF + CODE))
            elif self.precision == "int8" and self._group(members[self.leader[producer]]) == ATTENTION:
                yield Kernel(COPY, self._size(value) * 2 * CODE)

    def _kernel(self, nodes: list[ir.Node]) -> Kernel:
        inside = {value for node in nodes for value in node.outputs}
        read: dict[ir.Value, float] = {}
        for node in nodes:
            for value in node.inputs:
                if value is not None and value not in inside:
                    read[value] = max(read.get(value, 0), self._read(node, value))
        constant = sum(size for value, size in read.items() if value.const_value is not None)
        moved = sum(read.values()) + sum(self._written(value, nodes) for value in inside)
        operations = sum(self._operations(node) for node in nodes if op_of(node) in PRODUCTS)
        precision = self.precision if any(node in self.coded for node in nodes) else None
        return Kernel(self._group(nodes), moved, constant, operations, precision)

    def _group(self, nodes: list[ir.Node]) -> str:
        kinds = {op_of(node) for node in nodes}
        if products := kinds & PRODUCTS:
            if "Softmax" in kinds:
                return ATTENTION
            precision = self.precision.upper() if any(node in self.coded for node in nodes) else "FP16"
            return f"{precision} {'conv' if products & set(CONVS) else 'GEMM'}"
        if any(op_of(node) == "Gather" and node.inputs[0] not in self._values for node in nodes):
            return EMBEDDING
        if kinds & ROW_BY_ROW & {*NORMS, "GroupNormalization", "InstanceNormalization", "ReduceMean"}:
            return NORM
        return POINTWISE if kinds & (VALUE_BY_VALUE | ROW_BY_ROW) else OTHER

    @cached_property
    def _values(self) -> set[ir.Value | None]:
        """What is computed of data."""
        return {value for node in self.nodes for value in node.outputs}

    def _operations(self, node: ir.Node) -> float:
        first, second = (self._shape(node, value) for value in node.inputs[:2])
        made = self._shape(node, node.outputs[0])
        if op_of(node) in CONVS:  # [outputs, inputs / groups, kernel...], and the other way round
            return 2.0 * prod(made if op_of(node) == "Conv" else first) * prod(second[1:])
        summed = first[0 if node.attributes.get_int("transA", 0) else -1]
        return 2.0 * prod(made) * summed

    def _shape(self, node: ir.Node, value: ir.Value | None) -> Shape:
        shape = self._known_shape(value)
        if shape is None:
            name = None if value is None else value.name
            raise ModelError(
                f"nothing tells the shape of {name!r}, an operand of {node.name!r}, for these inputs: its cost cannot "
                "be estimated. Export the model with sizes that follow from those of its inputs."
            )
        return shape

    def _known_shape(self, value: ir.Value | None) -> Shape | None:
        if value is not None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return self.shapes.get(value.name or "") if value is not None else None

    def _size(self, value: ir.Value) -> int:
        shape = self._known_shape(value)
        return 0 if shape is None else prod(shape)

    def _read(self, node: ir.Node, value: ir.Value) -> float:
        """Bytes that ``node`` reads of ``value``."""
        size = self._size(value)
        if op_of(node) in PICKING and value is node.inputs[0]:
            size = min(size, self._size(node.outputs[0]))
        return size * (CODE if node in self.coded and value in node.inputs[:2] else _width(value))

    def _written(self, value: ir.Value, nodes: list[ir.Node]) -> float:
        """Rule 7."""
        return self._size(value) * sum(set(self._widths(value, nodes)))

    def _widths(self, value: ir.Value, nodes: list[ir.Node]) -> Iterator[int]:
        """As what those read it that are not ``nodes``."""
        if value.is_graph_output():
            yield _width(value)
        for reader, _ in value.uses():
            if reader in self.free:
                for output in reader.outputs:
                    yield from self._widths(output, nodes)
            elif reader in self.coded and value is self.activation[reader]:
                yield CODE
            elif reader in self.computed and reader not in nodes:
                yield _width(value)

    def _source(self, value: ir.Value) -> ir.Value:
        """What ``value`` is but for its shape."""
        while (node := value.producer()) is not None and node in self.free and node.inputs[0] is not None:
            value = node.inputs[0]
        return value


def _computed(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that read data, not sizes alone."""
    fed = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if op_of(node) not in KNOWING and fed.intersection(node.inputs):
            fed.update(node.outputs)
            yield node


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    return (reader for value in node.outputs for reader, _ in value.uses())


def _width(value: ir.Value) -> int:
    """Bytes of a number of ``value`` in an FP16 engine."""
    integer = value.dtype is not None and value.dtype.is_integer()
    return int(value.dtype.itemsize) if integer and value.dtype is not None else HALF
