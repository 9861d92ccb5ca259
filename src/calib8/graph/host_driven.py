"""What TensorRT does not run without its host: of an engine that has it, no CUDA graph can be captured.

Loops: the ONNX parser makes an ``ILoop`` of these operators, and plans show conditional jumps on the host. Sizes that
depend on data: the host has to read how many results there are before it can launch what comes behind (``NonZero``:
NVIDIA/TensorRT issue 4194). Sizes that depend on other sizes only are known beforehand.
"""

from collections.abc import Mapping

import onnx_ir as ir

from calib8.graph.values import op_of

LOOPS = dict.fromkeys(("Loop", "Scan", "LSTM", "GRU", "RNN"), "a loop")
BRANCHES = {"If": "a choice"}
COUNTS = dict.fromkeys(("NonZero", "NonMaxSuppression", "Unique", "Compress"), "as many results as the data has")
CUMSUM = {"CumSum": "a loop before TensorRT 10.8"}
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


def host_driven(model: ir.Model, *, cumsum: bool) -> dict[str, str]:
    """Why the host has a part in a node of the main graph, by the node's name; ``cumsum``: CumSum is a loop, too."""
    reasons = LOOPS | BRANCHES | COUNTS | (CUMSUM if cumsum else {})
    found: dict[str, str] = {}
    computed = {value for value in model.graph.inputs if not value.is_initializer()}  # values that data decides
    for node in model.graph:
        kind = op_of(node)
        sizing = [node.inputs[index] for index in SIZING.get(kind, ()) if index < len(node.inputs)]
        if kind in reasons:
            found[node.name or ""] = f"{kind}: {reasons[kind]}"
        elif computed.intersection(sizing):
            found[node.name or ""] = f"{kind}: the data decides its size"
        if kind not in KNOWING and computed.intersection(node.inputs):
            computed.update(node.outputs)
    return found


def describe_host_driven(found: Mapping[str, str]) -> str:
    """For people, what ``host_driven`` found."""
    named = ", ".join(f"{name} ({why})" for name, why in list(found.items())[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"TensorRT may drive these nodes from the host, so that no CUDA graph can be captured: {named}{more}"
