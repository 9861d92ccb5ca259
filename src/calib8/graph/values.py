"""What several passes ask of values and nodes."""

from collections.abc import Iterator

import onnx_ir as ir

#: Operators that only pass on their first input, in another shape, type or order, or a part of it.
MOVING = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")

#: Of ``Value.meta``, which stays in memory.
IDENTITIES = "calib8.identities"


def op_of(node: ir.Node) -> str:
    """The operator of ``node`` if it is one of ONNX's own, else nothing: other domains reuse their names."""
    return node.op_type if node.domain in ("", "ai.onnx") else ""


def plan_name(node: ir.Node) -> str:
    """The name under which TensorRT's plan mentions a node."""
    return node.name or f"node_of_{node.outputs[0].name}"  # TensorRT's parser names it so


def name_of(value: ir.Value) -> str:
    """The name that every value of a loaded graph has."""
    assert value.name is not None
    return value.name


def dropped_identities(value: ir.Value) -> list[str]:
    """The other names that ``value`` had before ``prepare``: of an Identity, of a Cast to its type, of a Pad."""
    return list(value.meta.get(IDENTITIES, ()))


def readers_of(node: ir.Node) -> list[ir.Node]:
    """Every node that reads an output of ``node``."""
    return [reader for value in node.outputs for reader, _ in value.uses()]


def has_body(node: ir.Node) -> bool:
    """Whether ``node`` computes graphs of its own: an If, Loop or Scan."""
    return any(one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for one in node.attributes.values())


def inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of those graphs, of any depth."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            yield from attribute.as_graph().all_nodes()


def drop_unread(graph: ir.Graph, value: ir.Value) -> None:
    """Remove the initializer ``value`` if nothing reads it and it is no output of the model."""
    if not value.uses() and not value.is_graph_output():
        del graph.initializers[name_of(value)]


def drop_unread_node(graph: ir.Graph, value: ir.Value) -> None:
    """Remove the node that computes ``value`` if nothing reads any output of it and none is of the model."""
    node = value.producer()
    outputs = () if node is None else node.outputs
    if node is not None and not any(output.uses() or output.is_graph_output() for output in outputs):
        graph.remove(node, safe=True)


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: ir.Node | list[ir.Node]) -> None:
    """Put ``nodes`` right behind what computes ``value``, or first of all if nothing does."""
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)
