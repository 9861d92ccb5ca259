"""An Einsum that is one product with a weight becomes a MatMul: the same sums, in a form that has INT8 kernels.

Keras writes attention's projections so: ``abc,cde->abde`` gives every head its own part of the columns, and
``abcd,cde->abe`` brings the heads together.

Rules:
1. Rewritten is an Einsum of one tensor and one constant whose common letters are the last of the tensor, in any order
   of the constant's, and whose result has the rest of the tensor's letters in their order, then the rest of the
   constant's. Nothing but the constant is transposed, so no kernel is added.
2. No letter comes twice in one operand, is dropped (a sum over one operand alone), or stands for a batch that both
   have; there are no dots.
3. Several letters of a kind are one axis of the MatMul: a Reshape in front or behind, which moves nothing.
"""

import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import drop_unread, name_of, op_of


class _Product(NamedTuple):
    """``node`` multiplies ``tensor``, which keeps its first ``kept`` axes, with ``weight``, whose axes in the ``order``
    are those that both have, then the columns: the last ``columns`` of the result."""

    node: ir.Node
    tensor: ir.Value
    weight: ir.Value
    kept: int
    order: list[int]
    columns: int


def rewrite_einsums(model: ir.Model) -> bool:
    """Apply the rules to the main graph of ``model``, in place. Whether there was one."""
    found = [product for node in model.graph if op_of(node) == "Einsum" and (product := _product(node)) is not None]
    for product in found:
        _rewrite(model.graph, product)
    return bool(found)


def _product(node: ir.Node) -> _Product | None:
    """Rules 1 and 2."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    operands, _, result = equation.partition("->")
    letters = operands.split(",")
    values = [value for value in node.inputs if value is not None]
    if not len(values) == len(letters) == 2 or not result or "." in equation:
        return None
    pairs = zip(values, letters, strict=True)
    (tensor, own), (weight, others) = sorted(pairs, key=lambda pair: pair[0].const_value is not None)
    if tensor.const_value is not None or weight.const_value is None:
        return None
    common = [letter for letter in own if letter in others]
    rest, columns = own[: len(own) - len(common)], [letter for letter in others if letter not in common]
    last = result[len(rest) :]
    if any(len(set(part)) < len(part) for part in (own, others, result)) or not (common and rest and columns):
        return None
    if rest + "".join(common) != own or result != rest + last or sorted(last) != sorted(columns):
        return None
    return _Product(node, tensor, weight, len(rest), [others.index(letter) for letter in (*common, *last)], len(last))


def _rewrite(graph: ir.Graph, product: _Product) -> None:
    name, result = product.node.name, product.node.outputs[0]
    assert product.weight.const_value is not None
    array = product.weight.const_value.numpy().transpose(product.order)
    sizes = array.shape[len(array.shape) - product.columns :]
    nodes: list[ir.Node] = []

    def initializer(what: str, values: NDArray[np.generic]) -> ir.Value:
        value = ir.val(f"{name}::{what}", const_value=ir.tensor(values))
        graph.register_initializer(value)
        return value

    def op(kind: str, *inputs: ir.Value, of: str = "") -> ir.Value:
        output = ir.Value(name=f"{name}::{kind}{of}")
        nodes.append(ir.node(kind, inputs, outputs=[output], name=f"{name}{of}"))
        return output

    value, matrix = product.tensor, product.weight
    if product.order != [0, 1]:
        matrix = initializer("matrix", np.ascontiguousarray(array.reshape(-1, math.prod(sizes))))
    if len(array.shape) - product.columns > 1:
        value = op("Reshape", value, initializer("rows", np.array([0] * product.kept + [-1])), of="::rows")
    value = op("MatMul", value, matrix)
    if product.columns > 1:
        value = op("Reshape", value, initializer("parts", np.array([0] * product.kept + list(sizes))), of="::parts")
    value.type, value.shape = result.type, result.shape
    graph.insert_before(product.node, nodes)
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(product.node, safe=True)
    value.name = name_of(result)
    drop_unread(graph, product.weight)
