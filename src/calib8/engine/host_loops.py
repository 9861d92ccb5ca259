"""Loops and branches that the host drives: it waits for a number from the GPU, and jumps in the list of kernels.

No CUDA graph can be captured of such an engine. In the plan they are ``cjmp`` layers, for a loop one in front and one
at its end, with a copy to the host before. TensorRT makes them of ONNX's control flow and recurrent ops, TensorRT 10.6
also of CumSum, which counts the position ids of MPNet and RoBERTa; TensorRT-RTX 1.7 makes one kernel of that.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from calib8.engine.layers import Layer
from calib8.engine.quantized import plan_name
from calib8.graph.values import op_of

JUMP = "cjmp"
KINDS = ("CumSum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan")


def looping_nodes(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """The nodes that may become a loop or a branch of the host, each with the nodes inside it, as plans call them."""
    nodes = [node for node in model.graph.all_nodes() if op_of(node) in KINDS]
    return {plan_name(node): tuple(map(plan_name, _inside(node))) for node in nodes}


def host_loops(layers: Sequence[Layer], looping: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The nodes of ``looping_nodes`` that jumps of the host come from, or the jumps themselves where none fits.

    A node fits if a layer from the first jump to the last computes it or something inside it, or if no layer does.
    """
    jumps = [place for place, layer in enumerate(layers) if layer.kind == JUMP]
    if not jumps:
        return ()
    stretch = layers[jumps[0] : jumps[-1] + 1]
    found = [name for name, inner in looping.items() if _named(stretch, (name, *inner))]
    found = found or [name for name, inner in looping.items() if not _named(layers, (name, *inner))]
    return tuple(found or (layers[place].name for place in jumps))


def _named(layers: Sequence[Layer], nodes: Sequence[str]) -> bool:
    return any(layer.computes(node) for layer in layers for node in nodes)


def _inside(node: ir.Node) -> list[ir.Node]:
    graphs = [entry.as_graph() for entry in node.attributes.values() if entry.type == ir.AttributeType.GRAPH]
    return [inner for graph in graphs for inner in graph.all_nodes()]
