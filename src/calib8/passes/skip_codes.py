"""Add residuals from codes: then one kernel computes the convolution, the sum and the codes of what comes of it.

    x -> Q -> DQ -> Conv -> Add -> Relu -> Q        becomes        x -> Q -> DQ -> Conv -> Add -> Relu -> Q
    x --------------------> Add                                              DQ --------> Add

TensorRT computes Conv -> Add -> Relu -> Q in one kernel where the other operand of the Add is INT8. Where it is FP16,
the convolution writes FP16, and sum and Q are kernels of their own (NVIDIA, "Working with Quantized Types", on skip
connections). A ResNet-50 of batch 32 took 1.87 ms on an H200 without any of this, 1.33 ms with the first rule alone, in
which four sums of two convolutions were 0.13 ms of 1.67 in all kernels, and six Qs, those behind them among them, 0.19.

Rules:
1. Of what a quantised convolution computes, which nothing else reads, and a tensor that has codes anyway: the Add reads
   those. Where conditioning stands before Q they are of other numbers, and it does not.
2. Of what two such convolutions compute, the second operand gets codes, by the range that calibration found of it.
3. Only where the sum becomes codes itself, since a kernel that writes FP16 wants an FP16 residual; or where Q is all
   else that reads the tensor: a kernel that has to write it as FP16 beside its codes writes no codes. So was the sum
   before the last of a ResNet-50.
"""

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from calib8.graph.values import name_of, op_of
from calib8.passes.qdq_nodes import Constants, quantised_activation
from calib8.precision import Grid

#: What the kernel of a convolution computes behind its sum.
ACTIVATIONS = ("Clip", "LeakyRelu", "Relu")


def summed(model: ir.Model) -> set[str]:
    """The tensors of the float ``model`` of plain convolutions that rule 2 needs a range of."""
    return {name_of(value) for value in _summed(model)}


def add_codes(model: ir.Model, amax: Mapping[str, float], grid: Grid) -> ir.Model:
    """Apply the rules to the Q/DQ ``model`` in place, and return it."""
    constants = Constants(model.graph)
    for value in _summed(model):
        (add, index), name = next(iter(value.uses())), name_of(value)
        if amax.get(name, 0) > 0 and _is_quantised(add.outputs[0]) and all(_has_codes(one) for one in add.inputs):
            add.replace_input_with(index, quantised_activation(constants, value, amax[name], grid))  # rule 2
    for node in list(model.graph):
        for index, operand in enumerate(node.inputs if op_of(node) == "Add" else ()):
            if operand is None or not _has_codes(node.inputs[1 - index]) or (codes := _codes_of(operand)) is None:
                continue
            if _is_quantised(node.outputs[0]) or _reads_alone(node, operand):
                node.replace_input_with(index, codes)  # rule 1
                break
    return model


def _summed(model: ir.Model) -> Iterator[ir.Value]:
    """The second operands of sums of two convolutions."""
    for node in list(model.graph):
        if op_of(node) == "Add" and node.inputs[1] is not None and all(_is_convolved(value) for value in node.inputs):
            yield node.inputs[1]


def _is_convolved(value: ir.Value | None) -> bool:
    """Whether a convolution computes it for one reader."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return False
    producer = value.producer()
    return producer is not None and op_of(producer) == "Conv"


def _has_codes(value: ir.Value | None) -> bool:
    """Whether a quantised convolution computes it for one reader."""
    conv = value.producer() if value is not None and _is_convolved(value) else None
    given = conv.inputs[0].producer() if conv is not None and conv.inputs[0] is not None else None
    return given is not None and op_of(given) == "DequantizeLinear"


def _is_quantised(value: ir.Value) -> bool:
    """Rule 3, of a sum."""
    readers = [reader for reader, _ in value.uses()]
    if any(op_of(reader) == "QuantizeLinear" for reader in readers):
        return True
    return len(readers) == 1 and op_of(readers[0]) in ACTIVATIONS and _is_quantised(readers[0].outputs[0])


def _reads_alone(node: ir.Node, value: ir.Value) -> bool:
    """Rule 3, of an operand: whether it is for ``node`` alone that ``value`` is there in float."""
    return not value.is_graph_output() and all(
        reader is node or op_of(reader) == "QuantizeLinear" for reader, _ in value.uses()
    )


def _codes_of(value: ir.Value) -> ir.Value | None:
    """What a convolution reads instead of ``value``: the output of DQ; None where none does."""
    for quantise in (reader for reader, _ in value.uses() if op_of(reader) == "QuantizeLinear"):
        for dequantise, _ in quantise.outputs[0].uses():
            read = dequantise.outputs[0]
            if op_of(dequantise) == "DequantizeLinear" and any(op_of(reader) == "Conv" for reader, _ in read.uses()):
                return read
    return None
