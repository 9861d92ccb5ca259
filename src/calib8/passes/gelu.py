"""One Gelu op in the place of the nodes that exporters write for it.

    x * 0.5 * (1 + erf(x / sqrt 2))   ==   Gelu(x)
    x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))   ==   Gelu(x, approximate="tanh")

Rules:
1. ``erf`` of x over the root of 2, by a Div or a Mul, plus 1, times x and times a half, in any order and pairing.
2. Nothing else reads a value between x and the product, none of which is an output of the model.
3. Gelu is of opset 20. A model that cannot be raised (``opset``) keeps its nodes.
4. A constant of one number has no more axes than x, or the product would have as many.
5. The tensor keeps its name: in float it is the same, but for the approximation where that is asked for.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from calib8.graph.values import op_of
from calib8.passes.opset import raise_opset

Approximation: TypeAlias = Literal["none", "tanh"]
OPSET = 20
#: By how much constants may be off, which exporters write in FP32 or fewer digits.
CLOSE = 1e-4


def gelu_ops(model: ir.Model, approximate: Approximation) -> int:
    """Rewrite every GELU of the prepared ``model`` in place. How many there were; 0 where rule 3 keeps them."""
    found = [product for node in model.graph if op_of(node) == "Erf" and (product := _product(node)) is not None]
    if not found or not raise_opset(model, OPSET):
        return 0
    for inner, last, between in found:
        scaled, output = _scaled(inner), last.outputs[0]
        assert scaled is not None
        x = scaled[0]  # read now: it may be the output of a GELU before this one, which is another value since
        result = ir.Value(name=output.name, type=output.type, shape=output.shape)
        gelu = ir.node("Gelu", [x], {"approximate": approximate}, outputs=[result], name=f"{last.name}_Gelu")
        model.graph.insert_after(last, gelu)
        output.replace_all_uses_with(result)
        model.graph.remove([last, *between], safe=True)
    return len(found)


def _product(erf: ir.Node) -> tuple[ir.Node, ir.Node, list[ir.Node]] | None:
    """The node that scales x, the one that gives its GELU, and all but the last; None if ``erf`` is of something else.

    Rules 1, 2 and 4.
    """
    argument, plus = erf.inputs[0], _only_reader(erf)
    inner = argument.producer() if argument is not None else None
    scaled = _scaled(inner)
    if inner is None or scaled is None or not _is(scaled[1], math.sqrt(0.5)) or _only_reader(inner) is not erf:
        return None
    if plus is None or op_of(plus) != "Add" or not any(_is(_number(operand), 1.0) for operand in plus.inputs):
        return None
    node: ir.Node | None = plus
    while (node := _only_reader(node)) is not None and op_of(node) == "Mul":
        factors = _factors(node)
        if len(factors.values) == 2 and {*factors.values} == {scaled[0], plus.outputs[0]} and _is(factors.number, 0.5):
            parts = (inner, erf, plus, *factors.nodes)
            if node.outputs[0].is_graph_output() or not _keep_rank(scaled[0], parts):
                return None
            return inner, node, [part for part in parts if part is not node]
    return None


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


def _scaled(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """What a Mul or Div by a number scales, and by how much."""
    if node is None or op_of(node) not in ("Mul", "Div"):
        return None
    for index in (1, 0) if op_of(node) == "Mul" else (1,):
        number, value = _number(node.inputs[index]), node.inputs[1 - index]
        if number and value is not None:
            return value, number if op_of(node) == "Mul" else 1 / number
    return None


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
