"""What follows an INT8 convolution and ends in float gets a kernel of its own.

    codes -> DQ -> Conv -> LeakyRelu -> Add    becomes    codes -> DQ -> Conv -> Cast -> LeakyRelu (FP32) -> Cast -> Add

TensorRT 10.6 fuses it into the convolution otherwise, has no kernel in INT8 for that, and compiles one while it builds
(``CaskJitConv``), which takes minutes; an engine on an H200 that had one was wrong from there on (-2.5 dB). What works
value by value it computes in FP32 in any case.

Rules:
1. Input and weight of the convolution come from DQ, cast to FP16: in FP32 there is nothing to cast.
2. What follows it value by value, with constants at most, is more than ``graph.pointwise`` lets end a kernel, and
   something else than Q reads the last of it. If that works value by value, too, on another tensor besides, TensorRT
   makes one kernel of it by itself.
3. For TensorRT alone, at the moment of a build.
"""

import onnx_ir as ir

from calib8.graph.pointwise import becomes_codes, ends_in_kernel, ends_of, joined, pointwise_from
from calib8.passes.codes_to_codes import FP16, FP32, compute_in_float, is_cast_to_float, is_int8_conv
from calib8.passes.qdq_nodes import Constants, cast_behind


def own_kernel(model: ir.Model) -> bool:
    """Rewrite what follows every such convolution of ``model`` in place, and tell whether there are any."""
    constants, found = Constants(model.graph), False
    for node in [node for node in model.graph if is_int8_conv(node)]:
        values, way = pointwise_from(node.outputs[0])
        ends = ends_of(values, way)
        fine = ends_in_kernel(way) or joined(ends) or all(becomes_codes(reader) for reader, _ in ends)
        if not fine and all(value.dtype == FP16 for value in values):
            found = True
            _separate(constants, values, way)
    return found


def _separate(constants: Constants, values: list[ir.Value], way: list[ir.Node]) -> None:
    """Compute ``way``, which reads the first of ``values`` and computes the others, in FP32."""
    first, *others = values
    outside = {
        value: [(reader, index) for reader, index in value.uses() if reader not in way and not is_cast_to_float(reader)]
        for value in others
    }
    wide = cast_behind(constants, first, FP32)
    for reader, index in list(first.uses()):
        if reader in way:
            reader.replace_input_with(index, wide)
    for node in way:
        compute_in_float(constants, node)
    for value, uses in outside.items():
        back = cast_behind(constants, value, FP16) if uses else value
        for reader, index in uses:
            reader.replace_input_with(index, back)
