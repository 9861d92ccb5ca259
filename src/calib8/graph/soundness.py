"""Is a graph what ONNX means by one, as far as calib8 relies on it? A model may come from anybody.

Rules:
1. Whatever a node reads, or the graph gives out, is computed, an input or an initializer.
2. A node of ONNX's own operators has the inputs, outputs and attributes that the operator demands, of its types.
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


def require_sound(model: ir.Model) -> None:
    """Raise ``ModelError`` that names the first flaw."""
    flaw = next(_flaws(model), None)
    if flaw is not None:
        raise ModelError(f"the graph is damaged: {flaw}. Export the model again.")


def _flaws(model: ir.Model) -> Iterator[str]:
    opset = model.opset_imports.get("", 0)
    for graph in model.graphs():
        for value in graph.outputs:
            if not _is_there(value):
                yield f"nothing computes the output {value.name!r}"
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield from _of_tensor(value.const_value)
        for node in graph:
            yield from _of_node(node, opset)


def _of_node(node: ir.Node, opset: int) -> Iterator[str]:
    named = (node, *node.inputs, *node.outputs, *node.attributes.values())
    names = [node.op_type, node.domain, *(one.name for one in named if one is not None)]
    if strange := [name for name in names if not isinstance(name, (str, type(None)))]:
        yield f"the name {strange[0]!r} is not UTF-8"
        return
    for value in node.inputs:
        if value is not None and not _is_there(value):
            yield f"the node {node.name!r} reads {value.name!r}, which nothing computes"
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
            yield from _of_tensor(attribute.as_tensor())
    if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, max_inclusive_version=opset):
        yield from _misuse(node, onnx.defs.get_schema(node.op_type, opset))


def _misuse(node: ir.Node, operator: onnx.defs.OpSchema) -> Iterator[str]:
    """Rule 2."""
    what = f"the {node.op_type} node {node.name!r}"
    given = len(node.inputs)
    if not operator.min_input <= given <= operator.max_input or None in node.inputs[: operator.min_input]:
        yield f"{what} has {given} inputs, expected {operator.min_input} to {operator.max_input}"
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


def _is_there(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()
