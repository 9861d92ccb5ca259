"""One Gelu op in the place of the nodes that exporters write for it.

    x * 0.5 * (1 + erf(x / sqrt 2))   ==   Gelu(x)
    x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))   ==   Gelu(x, approximate="tanh")

Rules:
1. ``erf`` or ``tanh`` of a polynomial of x, which may be written in any way (x^3 as x * x * x, say), plus 1, times x
   and times a half, in any order and pairing.
2. Nothing else reads a value between x and the product, none of which is an output of the model.
3. Gelu is of opset 20. A model that cannot be raised (``opset``) keeps its nodes.
4. A constant of one number has no more axes than x, or the product would have as many.
5. The tensor keeps its name: in float it is the same, but for the approximation where that is asked for. What a model
   computes by tanh it goes on to.
6. Where sizes are computed from it, the nodes stay: with another one there would be nothing to compare.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from calib8.graph.value_sizes import deciding
from calib8.graph.values import op_of
from calib8.passes.opset import raise_opset

Approximation: TypeAlias = Literal["none", "tanh"]
#: The coefficient of each power of x.
Polynomial: TypeAlias = dict[int, float]
OPSET = 20
#: By how much constants may be off, which exporters write in FP32 or fewer digits.
CLOSE = 1e-4
#: What is taken of which polynomial.
ARGUMENTS: dict[str, Polynomial] = {
    "Erf": {1: math.sqrt(0.5)},
    "Tanh": {1: math.sqrt(2 / math.pi), 3: 0.044715 * math.sqrt(2 / math.pi)},
}
#: More nodes than any exporter writes for a polynomial of degree 3.
MOST_NODES = 8


@dataclass(frozen=True)
class _Written:
    """A GELU: ``last`` gives it, from what input number ``slot`` of ``reader`` is, through ``between``.

    The input is asked for when x is needed: it may be the output of a GELU before this one, another value since.
    """

    function: str
    reader: ir.Node
    slot: int
    last: ir.Node
    between: list[ir.Node]


def gelu_ops(model: ir.Model, approximate: Approximation) -> int:
    """Rewrite every GELU of the prepared ``model`` in place. How many there were; 0 where rule 3 keeps them."""
    stay = deciding(model.graph)  # rule 6
    functions = [node for node in model.graph if op_of(node) in ARGUMENTS and node not in stay]
    found = [written for node in functions if (written := _written(node)) is not None]
    if not found or not raise_opset(model, OPSET):
        return 0
    for gelu in found:
        x, output = gelu.reader.inputs[gelu.slot], gelu.last.outputs[0]
        how = approximate if gelu.function == "Erf" else "tanh"
        result = ir.Value(name=output.name, type=output.type, shape=output.shape)
        node = ir.node("Gelu", [x], {"approximate": how}, outputs=[result], name=f"{gelu.last.name}_Gelu")
        model.graph.insert_after(gelu.last, node)
        output.replace_all_uses_with(result)
        model.graph.remove([gelu.last, *gelu.between], safe=True)
    return len(found)


def _written(function: ir.Node) -> _Written | None:
    """The GELU that ``function`` is of, if it is of one. Rules 1, 2 and 4."""
    plus = _only_reader(function)
    if plus is None or op_of(plus) != "Add" or not any(_is(_number(operand), 1.0) for operand in plus.inputs):
        return None
    node: ir.Node | None = plus
    while (node := _only_reader(node)) is not None and op_of(node) == "Mul":
        factors = _factors(node)
        x = next((value for value in factors.values if value is not plus.outputs[0]), None)
        if x is None or len(factors.values) != 2 or not _is(factors.number, 0.5):
            continue
        of_x = _Terms(x)
        if not _are(of_x.polynomial(function.inputs[0]), ARGUMENTS[op_of(function)]):
            return None
        parts = [*dict.fromkeys((*of_x.nodes, function, plus, *factors.nodes))]
        if node.outputs[0].is_graph_output() or not _closed(parts, node) or not _keep_rank(x, parts):
            return None
        reader, slot = next((reader, slot) for reader, slot in x.uses() if reader in parts)
        return _Written(op_of(function), reader, slot, node, [part for part in parts if part is not node])
    return None


class _Terms:
    """Values as polynomials of ``x``; ``nodes`` compute them."""

    def __init__(self, x: ir.Value) -> None:
        self.x = x
        self.nodes: dict[ir.Node, None] = {}

    def polynomial(self, value: ir.Value | None) -> Polynomial | None:
        """None if ``value`` is none, or is computed by more nodes than polynomials are."""
        if value is self.x:
            return {1: 1.0}
        if (number := _number(value)) is not None:
            return {0: number}
        node = value.producer() if value is not None else None
        if node is None or op_of(node) not in ("Add", "Div", "Mul", "Pow") or len(self.nodes) == MOST_NODES:
            return None
        self.nodes[node] = None
        a, b = (self.polynomial(operand) for operand in node.inputs)
        return None if a is None or b is None else _combined(op_of(node), a, b)


def _combined(kind: str, a: Polynomial, b: Polynomial) -> Polynomial | None:
    """None where that is no polynomial, or one of too high a degree."""
    if kind == "Add":
        return {power: a.get(power, 0.0) + b.get(power, 0.0) for power in {*a, *b}}
    if kind == "Mul":
        product: Polynomial = {}
        for (i, first), (j, second) in ((one, other) for one in a.items() for other in b.items()):
            product[i + j] = product.get(i + j, 0.0) + first * second
        return product if max(product) <= 3 else None
    number = b.get(0) if [*b] == [0] else None
    if kind == "Div":
        return {power: factor / number for power, factor in a.items()} if number else None
    if number not in (2, 3) or len(a) != 1:
        return None
    ((power, factor),) = a.items()
    return {power * int(number): factor**number} if power * number <= 3 else None


def _are(found: Polynomial | None, wanted: Polynomial) -> bool:
    return found is not None and {*found} == {*wanted} and all(_is(found[power], wanted[power]) for power in wanted)


def _closed(nodes: list[ir.Node], last: ir.Node) -> bool:
    """Rule 2."""
    inside = {*nodes}
    values = [value for node in nodes if node is not last for value in node.outputs]
    return all(not value.is_graph_output() and {reader for reader, _ in value.uses()} <= inside for value in values)


def _keep_rank(x: ir.Value, nodes: Iterable[ir.Node]) -> bool:
    """Rule 4."""
    constants = [value.const_value for node in nodes for value in node.inputs if value is not None]
    rank = 0 if x.shape is None else len(x.shape)
    return all(len(constant.shape) <= rank for constant in constants if constant is not None)


@dataclass
class _Factors:
    """What a tree of Muls multiplies: ``values`` and the product of constants; ``nodes`` are the Muls."""

    values: list[ir.Value]
    number: float
    nodes: list[ir.Node]


def _factors(node: ir.Node) -> _Factors:
    found = _Factors([], 1.0, [node])
    for operand in node.inputs:
        assert operand is not None
        before = operand.producer()
        if (number := _number(operand)) is not None:
            found.number *= number
        elif before is not None and op_of(before) == "Mul" and _only_reader(before) is node:
            inner = _factors(before)
            found = _Factors(found.values + inner.values, found.number * inner.number, found.nodes + inner.nodes)
        else:
            found.values.append(operand)
    return found


def _number(value: ir.Value | None) -> float | None:
    constant = value.const_value if value is not None else None
    return float(constant.numpy().reshape(())) if constant is not None and constant.size == 1 else None


def _is(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=CLOSE)


def _only_reader(node: ir.Node | None) -> ir.Node | None:
    """Who reads what ``node`` gives, if it is one and reads it once."""
    if node is None or node.outputs[0].is_graph_output():
        return None
    uses = list(node.outputs[0].uses())
    return uses[0][0] if len(uses) == 1 else None
