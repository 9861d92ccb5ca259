"""Sizes that a model computes from values, not from the shapes of its inputs: how long speech becomes, say.

The length of what a text to speech model says is a sum of durations, which a layer predicts.
"""

from collections.abc import Mapping

import onnx_ir as ir

from calib8.graph.host_driven import COUNTS, KNOWING, SIZING
from calib8.graph.values import op_of

#: Of what counts values of a kind, every input counts.
COUNTING = dict.fromkeys(COUNTS, (0, 1, 2, 3, 4))


def deciding(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of ``graph`` whose results reach a size as values that an operator of ``SIZING`` reads."""
    return _leading_to(graph, SIZING)[0]


def depend_on_values(model: ir.Model) -> bool:
    """Whether tensors of ``model`` may be of other sizes for other values in inputs of the same shapes."""
    nodes, inputs = _leading_to(model.graph, SIZING | COUNTING)
    return bool(inputs) or any(op_of(node).startswith("Random") for node in nodes)


def _leading_to(graph: ir.Graph, read: Mapping[str, tuple[int, ...]]) -> tuple[set[ir.Node], set[ir.Value]]:
    """The nodes, and the inputs of the model, whose values reach those inputs of operators."""
    todo = [node.inputs[slot] for node in graph for slot in read.get(op_of(node), ()) if slot < len(node.inputs)]
    nodes: set[ir.Node] = set()
    inputs: set[ir.Value] = set()
    while todo:
        value = todo.pop()
        producer = value.producer() if value is not None else None
        if producer is not None and producer not in nodes and op_of(producer) not in KNOWING:
            nodes.add(producer)
            todo += producer.inputs
        elif value is not None and value.is_graph_input():
            inputs.add(value)
    return nodes, inputs
