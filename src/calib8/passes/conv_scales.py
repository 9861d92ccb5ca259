"""Q/DQ of convolutions in the form of the full TensorRT: FP16 scales where FP16 is computed.

``half`` leaves ``x (FP16) -> Cast -> Q -> DQ -> Cast -> Conv`` with FP32 scales, which TensorRT-RTX needs. TensorRT
10.6 makes fast kernels of that for MatMul, but for Conv each Cast becomes a kernel of every run: one copies the weights
(``Mov``), one transposes the activation (``Tra``). With FP16 scales both are gone, and the accumulator is scaled in
FP32 all the same (seen on an H200).

Rules:
1. A DequantizeLinear whose readers are only Casts to FP16 before a Conv, or a sum with what one computes, gives FP16
   itself, and its scales are FP16; the Casts go. Before a sum each Cast copies the codes to where they were: of a
   ResNet-50 of batch 128, four sums of two convolutions, 0.78 ms of 3.33.
2. The QuantizeLinear before it divides by the very same numbers: as FP16 where what it quantises was cast from FP16,
   whose Cast goes, too; else as FP32.
   Where something else reads the activation, too, such as a MatMul, convolutions get a DequantizeLinear of their own
   and the other keeps its form: TensorRT 10.6 refuses a MatMul of which one operand has FP16 scales and one FP32 ones.
   All of them have the number that FP16 holds, and the QuantizeLinear divides by it in FP32.
3. FP16 has few digits below its smallest normal number, 2^-14: there a weight's scale is rounded up to the next that it
   has, 2^-24 at least, and the codes are rounded anew for it. Scales are that small where a convolution reads large
   numbers, such as an image of 0 to 255, once its norm is folded into its weight. An activation whose scale is below
   2^-14, and whatever has one beyond FP16, stays as it is.
4. The opset stays: ONNX has FP16 scales from 19 on, and the parsers of TensorRT-RTX 1.7 and TensorRT 10.6 took them at
   13. So this form is for TensorRT alone, and for the moment of a build.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import drop_unread, name_of, op_of
from calib8.numerics import quantize
from calib8.passes.qdq_nodes import Constants

FP16 = ir.DataType.FLOAT16
LARGEST, SMALLEST_NORMAL = np.finfo(np.float16).max, np.finfo(np.float16).smallest_normal
SMALLEST = np.float32(np.finfo(np.float16).smallest_subnormal)


def takes_conv_scales(model: ir.Model) -> bool:
    """Is there anything for ``to_conv_scales`` to rewrite?"""
    return any(_casts_before_conv(node) or _reads_beside_others(node) for node in model.graph)


def to_conv_scales(model: ir.Model) -> ir.Model:
    """Rewrite the Q/DQ pairs of ``model``'s convolutions in place and return it."""
    graph, constants = model.graph, Constants(model.graph)
    for node in list(graph):
        if (reads := _reads_beside_others(node)) and _in_half(node.inputs[1]):
            _separate(constants, node, reads)
    for node in list(graph):
        casts = _casts_before_conv(node)
        if not casts:
            continue
        quantise = node.inputs[0].producer() if node.inputs[0] is not None else None
        if _weight(constants, node) if quantise is None else _activation(constants, node, quantise):
            _give_half(graph, node, casts)  # rule 1
    for value in list(graph.initializers.values()):
        drop_unread(graph, value)
    return model


def _casts_before_conv(node: ir.Node) -> list[ir.Node]:
    """The Casts to FP16 behind the DequantizeLinear ``node``, if they alone read it, and Conv, or its sums, them."""
    if op_of(node) != "DequantizeLinear" or node.outputs[0].is_graph_output():
        return []
    casts = [reader for reader, _ in node.outputs[0].uses()]
    readers = [reader for cast in casts for reader, _ in cast.outputs[0].uses()]
    right = all(
        op_of(cast) == "Cast" and cast.attributes.get_int("to") == FP16 and not cast.outputs[0].is_graph_output()
        for cast in casts
    )
    kinds = {op_of(reader) for reader in readers}
    near = "Conv" in kinds or any(map(_adds_to_conv, readers))
    return casts if right and near and kinds <= {"Conv", "Add"} else []


def _adds_to_conv(node: ir.Node) -> bool:
    producers = [value.producer() for value in node.inputs if value is not None]
    return op_of(node) == "Add" and any(one is not None and op_of(one) == "Conv" for one in producers)


def _reads_beside_others(node: ir.Node) -> list[tuple[ir.Node, int]]:
    """Conv and the number of its input that reads DequantizeLinear ``node`` through a Cast, if others read it, too."""
    if op_of(node) != "DequantizeLinear" or _casts_before_conv(node):
        return []
    casts = [reader for reader, _ in node.outputs[0].uses() if op_of(reader) == "Cast"]
    read = [use for cast in casts if cast.attributes.get_int("to") == FP16 for use in cast.outputs[0].uses()]
    return [(reader, index) for reader, index in read if op_of(reader) == "Conv"]


def _separate(constants: Constants, shared: ir.Node, reads: list[tuple[ir.Node, int]]) -> None:
    """Let ``reads`` have a DequantizeLinear and a Cast of their own, equal to what they had."""
    value = shared.outputs[0]
    own = ir.Value(name=constants.free(f"{name_of(value)}_conv"), type=value.type, shape=value.shape)
    half = ir.Value(name=constants.free(f"{own.name}_half"), type=ir.TensorType(FP16), shape=value.shape)
    attributes = dict(shared.attributes)
    dequantise = ir.Node("", "DequantizeLinear", shared.inputs, attributes.values(), outputs=[own], name=own.name)
    cast = ir.node("Cast", [own], {"to": int(FP16)}, outputs=[half], name=half.name)
    constants.graph.insert_after(shared, [dequantise, cast])
    for reader, index in reads:
        reader.replace_input_with(index, half)
    for other in [reader for reader, _ in value.uses() if op_of(reader) == "Cast"]:
        if not other.outputs[0].uses() and not other.outputs[0].is_graph_output():
            constants.graph.remove(other, safe=True)


def _in_half(scale: ir.Value | None) -> bool:
    """Rule 3: can the scale of an activation be FP16?"""
    if scale is None or scale.const_value is None:
        return False
    exact = scale.const_value.numpy()
    return bool(SMALLEST_NORMAL <= exact.min() <= exact.max() <= LARGEST)


def _weight(constants: Constants, dequantise: ir.Node) -> bool:
    """Rule 3 for the constant codes that ``dequantise`` reads."""
    codes, scale = dequantise.inputs[0], dequantise.inputs[1]
    if codes is None or scale is None or codes.const_value is None or scale.const_value is None:
        return False
    exact = scale.const_value.numpy().astype(np.float32)
    if exact.max() > LARGEST:
        return False
    small = exact < SMALLEST_NORMAL
    half = np.where(small, _rounded_up(exact), exact).astype(np.float16)
    if small.any():
        array = codes.const_value.numpy()
        column = [1] * array.ndim
        column[dequantise.attributes.get_int("axis", 1) if exact.size > 1 else 0] = -1
        anew = _rounded_anew(array, exact.reshape(column), half.reshape(column), small.reshape(column))
        dequantise.replace_input_with(0, constants.new(name_of(codes), anew))
    dequantise.replace_input_with(1, constants.new(f"{scale.name}_fp16", half))
    return True


def _rounded_up(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """To a multiple of FP16's smallest number: what it has below its smallest normal one."""
    steps = np.maximum(np.ceil(small / SMALLEST), 1)
    return np.asarray(steps * SMALLEST, np.float32)


def _rounded_anew(
    codes: NDArray[np.int8], exact: NDArray[np.float32], half: NDArray[np.float16], small: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """``codes`` for the scales ``half`` where the ``exact`` ones are too ``small``; all of them broadcast to it."""
    return np.where(small, quantize(codes * exact, half.astype(np.float32)), codes)


def _activation(constants: Constants, dequantise: ir.Node, quantise: ir.Node) -> bool:
    """Rule 2 for the pair; False where rule 3 leaves it."""
    scale, source = dequantise.inputs[1], quantise.inputs[0]
    if scale is None or scale.const_value is None or source is None or op_of(quantise) != "QuantizeLinear":
        return False
    others = [reader for reader, _ in quantise.outputs[0].uses() if reader is not dequantise]
    if not _in_half(scale) or any(op_of(o) != "DequantizeLinear" or o.inputs[1] is not scale for o in others):
        return False
    half = scale.const_value.numpy().astype(np.float16)
    shared = constants.new(f"{scale.name}_fp16", half)
    dequantise.replace_input_with(1, shared)
    cast = source.producer()
    if (
        not others
        and cast is not None
        and op_of(cast) == "Cast"
        and cast.inputs[0] is not None
        and cast.inputs[0].dtype == FP16
    ):
        quantise.replace_input_with(0, cast.inputs[0])
        quantise.replace_input_with(1, shared)
        if not source.uses() and not source.is_graph_output():
            constants.graph.remove(cast, safe=True)
    else:
        rounded = constants.new(f"{scale.name}_rounded", half.astype(np.float32))
        for one in (quantise, *others):
            one.replace_input_with(1, rounded)
    return True


def _give_half(graph: ir.Graph, dequantise: ir.Node, casts: list[ir.Node]) -> None:
    dequantise.outputs[0].type = ir.TensorType(FP16)
    dequantise.attributes.pop("output_dtype", None)  # of opset 23; without it the type is that of the scale
    for cast in casts:
        cast.outputs[0].replace_all_uses_with(dequantise.outputs[0])
        graph.remove(cast, safe=True)
