"""CumSum in the form that TensorRT takes (see ``passes.host_loops``), and the way back to the operator.

That form adds up length times as many numbers: nothing to a GPU, but a CPU has them all in memory.
"""

import re

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib8.graph.values import name_of

#: Node metadata of the sum that stands for a CumSum: its axis, ``exclusive`` and ``reverse``.
STANDS_FOR = "calib8.cumsum"
_TOLD = re.compile(r"(\d{1,2}) ([01]) ([01])")


def stand_for(node: ir.Node, axis: int, exclusive: int, reverse: int) -> None:
    """Note on the sum ``node`` which CumSum it is."""
    node.metadata_props[STANDS_FOR] = f"{axis} {exclusive} {reverse}"


def counts(node: ir.Node) -> bool:
    """Is it a running sum, in either form?"""
    return node.op_type == "CumSum" or STANDS_FOR in node.metadata_props


def restore(model: ir.Model) -> ir.Model:
    """Put a CumSum in the place of every sum that stands for one, in place, and return the model."""
    graph = model.graph
    found = [(node, told, x) for node in graph if (told := _told(node)) and (x := _summed(node)) is not None]
    for node, told, x in found:
        axis, exclusive, reverse = map(int, told.groups())
        name = f"{name_of(node.outputs[0])}_cumsum_axis"
        constant = ir.val(name, const_value=ir.tensor(np.asarray(axis, np.int64), name=name))
        graph.register_initializer(constant)
        made = ir.node("CumSum", [x, constant], {"exclusive": exclusive, "reverse": reverse}, name=node.name)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [made], node.outputs, made.outputs)
    if found:
        common.RemoveUnusedNodesPass()(model)
    return model


def _told(node: ir.Node) -> re.Match[str] | None:
    return _TOLD.fullmatch(node.metadata_props.get(STANDS_FOR, ""))


def _summed(node: ir.Node) -> ir.Value | None:
    """What ``node`` sums up; None if it was edited since."""
    chosen = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if chosen is None or chosen.op_type != "Where":
        return None
    wide = [producer for value in chosen.inputs[1:] if value is not None and (producer := value.producer()) is not None]
    return wide[0].inputs[0] if len(wide) == 1 and wide[0].op_type == "Unsqueeze" else None
