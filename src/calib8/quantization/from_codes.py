"""Convolutions that the full TensorRT computes well in INT8 only where codes go in and codes come out.

From codes to codes all is one kernel. Where float comes out of these two, TensorRT 10.6 on an H200 has no kernel that
is faster than FP16 (docs/tensorrt.md, "Convolutions"):

1. A grouped convolution, depthwise or not. Its kernels in INT8 end in codes, behind a ReLU, a Clip or SiLU at most. It
   is no INT8 otherwise (``passes/float_grouped.py``).
2. A convolution that more than these follow value by value, such as h-swish written out. In INT8 they are a kernel of
   their own (``passes/own_kernel.py``), in FP16 they are not.

What one of them writes is read by another, so that leaving out one may leave the next without codes.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from calib8.graph.pointwise import ends_in_kernel, ends_of, is_grouped, joined, pointwise_from
from calib8.graph.weighted import WeightedOp

GROUPED = "it is grouped, and codes do not come of it at once: TensorRT has no kernel in INT8 for that"
FOLLOWED = "its activation goes on in float: TensorRT computes both in one kernel in FP16, and in two in INT8"


def not_to_codes(quantised: Sequence[WeightedOp]) -> dict[str, str]:
    """Why, by name, those of the ``quantised`` ops, in graph order, are to stay in float of which no codes come."""
    read = {op.node: op.activation for op in quantised}
    found: dict[str, str] = {}
    for op in reversed(quantised):  # who reads its result comes later, and is decided
        if (reason := _reason(op, read)) is not None:
            found[op.name] = reason
            del read[op.node]
    return found


def _reason(op: WeightedOp, read: Mapping[ir.Node, ir.Value]) -> str | None:
    """``read``: what the ops that are quantised read as codes."""
    if op.kind != "Conv":
        return None
    values, nodes = pointwise_from(op.node.outputs[0])
    ends = ends_of(values, nodes)
    to_codes = all(reader is not None and read.get(reader) is value for reader, value in ends)
    if is_grouped(op.node):
        return None if to_codes and ends_in_kernel(nodes) else GROUPED
    return None if to_codes or joined(ends) or ends_in_kernel(nodes) else FOLLOWED
