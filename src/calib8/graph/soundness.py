"""Is a graph what ONNX means by one, as far as calib8 relies on it? A model may come from anybody.

Rules:
1. Whatever a node reads, or the graph gives out, is computed before, an input or an initializer.
2. A node of ONNX's own operators has the inputs, outputs and attributes that the operator demands, of its types, and
   attributes have values: only a function may name the caller's instead.
3. A constant has as many values as its shape says.
4. Names are text. Protobuf hands on bytes that are no UTF-8.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import cast

import onnx.defs
import onnx_ir as ir

from calib8.errors import ModelError
from calib8.graph.mapped import MappedTensor
from calib8.graph.values import op_of


def require_sound(model: ir.Model) -> None:
    """Raise ``ModelError`` that names the first flaw."""
    flaw = next(_flaws(model), None)
    if flaw is not None:
        raise ModelError(f"the graph is damaged: {flaw}. Export the model again.")


def _flaws(model: ir.Model) -> Iterator[str]:
    yield from _of_graph(model.graph, set(), model.opset_imports.get("", 0))


def _of_graph(graph: ir.Graph, outer: set[ir.Value], opset: int) -> Iterator[str]:
    """``outer``: what the node that holds this graph could read."""
    known = outer | {*graph.inputs, *graph.initializers.values()}
    for weight in graph.initializers.values():
        if weight.const_value is not None:
            yield from _of_tensor(weight.const_value)
    for node in graph:
        for read in node.inputs:
            if read is not None and read not in known:
                yield f"the node {node.name!r} reads {read.name!r}, which nothing before it computes"
        yield from _of_node(node, opset)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:  # no reference to one: that was a flaw of the node
                yield from _of_graph(attribute.as_graph(), known, opset)
        known.update(node.outputs)
    for output in graph.outputs:
        if output not in known:
            yield f"nothing computes the output {output.name!r}"


def _of_node(node: ir.Node, opset: int) -> Iterator[str]:
    named = (node, *node.inputs, *node.outputs, *node.attributes.values())
    names = [node.op_type, node.domain, *(one.name for one in named if one is not None)]
    if strange := [name for name in names if not isinstance(name, (str, type(None)))]:
        yield f"the name {strange[0]!r} is not UTF-8"
        return
    for attribute in node.attributes.values():
        if attribute.is_ref():
            yield f"the attribute {attribute.name!r} of the node {node.name!r} is a function's, and this is no function"
        elif attribute.type == ir.AttributeType.TENSOR:
            yield from _of_tensor(attribute.as_tensor())
    if onnx.defs.has(op_of(node)):
        there = onnx.defs.has(node.op_type, max_inclusive_version=opset)  # or the opset lies: the newest form counts
        yield from _misuse(
            node, onnx.defs.get_schema(node.op_type, opset) if there else onnx.defs.get_schema(node.op_type)
        )


def _misuse(node: ir.Node, operator: onnx.defs.OpSchema) -> Iterator[str]:
    """Rule 2."""
    what = f"the {node.op_type} node {node.name!r}"
    given = len(node.inputs)
    if not operator.min_input <= given <= operator.max_input:
        yield f"{what} has {given} inputs, expected {operator.min_input} to {operator.max_input}"
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional  # Loop counts two of them among the least it has
    for formal, read in zip(operator.inputs, node.inputs, strict=False):
        if read is None and formal.option != optional:
            yield f"{what} has no input {formal.name!r}"
    if not operator.min_output <= len(node.outputs) <= operator.max_output:
        yield f"{what} has {len(node.outputs)} outputs, expected {operator.min_output} to {operator.max_output}"
    for name, attribute in operator.attributes.items():
        own, wanted = node.attributes.get(name), cast(IntEnum, attribute.type)  # onnx's stubs do not tell
        if own is None and attribute.required:
            yield f"{what} has no attribute {name!r}"
        elif own is not None and own.type != wanted:
            yield f"the attribute {name!r} of {what} is of the type {own.type.name}, expected {wanted.name}"


def _of_tensor(tensor: ir.TensorProtocol) -> Iterator[str]:
    """Rule 3; ``mapped`` looks at its own, and reading those of other files would take memory."""
    if isinstance(tensor, (MappedTensor, ir.ExternalTensor)):
        return
    try:
        tensor.numpy()
    except Exception as error:  # whatever NumPy and onnx_ir raise
        yield f"the constant {tensor.name!r} cannot be read ({error})"
