"""Nodes that TensorRT may not run without its host: of an engine that needs it, no CUDA graph can be captured.

Loops and branches: the ONNX parser makes an ``ILoop`` or an ``IIfConditional`` of these operators. Whether the host
drives them is for the compiler to say (``engine.host_loops``). Sizes that depend on data: the host has to read how many
results there are before it can launch what comes behind (``NonZero``: NVIDIA/TensorRT issue 4194), whatever the
compiler. Sizes that depend on other sizes only are known beforehand.
"""

from dataclasses import dataclass

import onnx_ir as ir

from calib8.graph.values import op_of, plan_name

#: Operators whose jumps the host may take.
JUMPING = {
    **dict.fromkeys(("Loop", "Scan", "LSTM", "GRU", "RNN"), "a loop"),
    "CumSum": "a loop before TensorRT 10.8",
    "If": "a choice",
}
COUNTS = dict.fromkeys(("NonZero", "NonMaxSuppression", "Unique", "Compress"), "as many results as the data has")
#: Inputs that decide how large an output is, by operator.
SIZING = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
}
#: What tells sizes, which are known before the data is.
KNOWING = ("Shape", "Size")


@dataclass(frozen=True)
class HostDriven:
    """A node of the main graph that may need the host, under the name that TensorRT's plan gives it, and why."""

    name: str
    why: str
    #: Whether that is a jump, which the compiler may have done without.
    jumps: bool
    #: The nodes of its subgraphs.
    inside: tuple[str, ...] = ()


def host_driven(model: ir.Model) -> tuple[HostDriven, ...]:
    """Every node of the main graph in which the host may have a part."""
    found = []
    computed = {value for value in model.graph.inputs if not value.is_initializer()}  # values that data decides
    for node in model.graph:
        kind = op_of(node)
        sizing = [node.inputs[index] for index in SIZING.get(kind, ()) if index < len(node.inputs)]
        why = JUMPING.get(kind) or COUNTS.get(kind)
        if why is None and computed.intersection(sizing):
            why = "the data decides its size"
        if why is not None:
            found.append(HostDriven(plan_name(node), f"{kind}: {why}", kind in JUMPING, _inside(node)))
        if kind not in KNOWING and computed.intersection(node.inputs):
            computed.update(node.outputs)
    return tuple(found)


def _inside(node: ir.Node) -> tuple[str, ...]:
    graphs = [entry.as_graph() for entry in node.attributes.values() if entry.type == ir.AttributeType.GRAPH]
    return tuple(plan_name(inner) for graph in graphs for inner in graph.all_nodes())
