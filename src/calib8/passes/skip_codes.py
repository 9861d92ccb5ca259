"""Let a residual be added from the codes that its tensor has anyway: the convolution in front then writes codes, too.

    x -> Q -> DQ -> Conv        becomes        x -> Q -> DQ -> Conv
    x ----------------> Add                              DQ -> Add

TensorRT computes Conv -> Add -> Relu -> Q in one kernel where the other operand of the Add is INT8. Where it is FP16,
the convolution writes FP16 and Q is a kernel of its own, for every block (NVIDIA, "Working with Quantized Types", on
skip connections).

Rules:
1. An Add of what a quantised convolution computes, which nothing else reads, and a tensor that has codes.
2. Codes of the tensor as it is: where conditioning stands before Q, the sum would be of other numbers.
"""

import onnx_ir as ir

from calib8.graph.values import op_of


def add_codes(model: ir.Model) -> ir.Model:
    """Apply the rules to the Q/DQ ``model`` in place, and return it."""
    for node in list(model.graph):
        if op_of(node) == "Add":
            for index, operand in enumerate(node.inputs):
                if operand is not None and _is_convolved(node.inputs[1 - index]) and (codes := _codes_of(operand)):
                    node.replace_input_with(index, codes)
                    break
    return model


def _is_convolved(value: ir.Value | None) -> bool:
    """Rule 1."""
    conv = value.producer() if value is not None else None
    if value is None or conv is None or op_of(conv) != "Conv" or len(value.uses()) != 1 or value.is_graph_output():
        return False
    given = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    return given is not None and op_of(given) == "DequantizeLinear"


def _codes_of(value: ir.Value) -> ir.Value | None:
    """What a convolution reads instead of ``value``: the output of DQ; None where none does."""
    for quantise in (reader for reader, _ in value.uses() if op_of(reader) == "QuantizeLinear"):
        for dequantise, _ in quantise.outputs[0].uses():
            read = dequantise.outputs[0]
            if op_of(dequantise) == "DequantizeLinear" and any(op_of(reader) == "Conv" for reader, _ in read.uses()):
                return read
    return None
