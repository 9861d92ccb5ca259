"""Which nodes of an engine the host drives: it waits for a number from the GPU before it launches the next kernel.

No CUDA graph can be captured of such an engine. The graph names who may be the cause (``graph.host_driven``), and of
jumps the plan tells whether there are any: ``cjmp`` layers, for a loop one in front and one at its end, with a copy to
the host before. TensorRT makes them of ONNX's control flow and recurrent ops, TensorRT 10.6 also of CumSum (77 layers,
5 of them ``cjmp``), which counts the position ids of MPNet and RoBERTa, and which ``passes.host_loops`` replaces;
TensorRT-RTX 1.7 makes one kernel of CumSum.
"""

from collections.abc import Sequence

from calib8.engine.layers import Layer
from calib8.graph.host_driven import HostDriven

JUMP = "cjmp"
UNEXPLAINED = "a jump in the plan"


def driven_by_host(layers: Sequence[Layer], suspects: Sequence[HostDriven]) -> dict[str, str]:
    """The nodes of ``suspects`` that need the host, and why; jumps of the plan themselves where no node explains them.

    A node explains the jumps if a layer from the first to the last computes it or something inside it, or if no layer
    does.
    """
    sizes = {node.name: node.why for node in suspects if not node.jumps}
    jumping = [node for node in suspects if node.jumps]
    if not layers:  # no plan was read
        return {node.name: f"{node.why}, as far as the graph tells" for node in jumping} | sizes
    jumps = [place for place, layer in enumerate(layers) if layer.kind == JUMP]
    if not jumps:
        return sizes
    stretch = layers[jumps[0] : jumps[-1] + 1]
    found = [node for node in jumping if _named(stretch, node)]
    found = found or [node for node in jumping if not _named(layers, node)]
    named = {node.name: node.why for node in found} or {layers[place].name: UNEXPLAINED for place in jumps}
    return named | sizes


def _named(layers: Sequence[Layer], node: HostDriven) -> bool:
    return any(layer.computes(name) for layer in layers for name in (node.name, *node.inside))
