"""The same INT8 model in the form that CPU runtimes turn into integer kernels.

Rules:
1. FP16 becomes FP32: weights keep their FP16 values, arithmetic gains precision. CPUs have no fast FP16 GEMM.
   Inputs and outputs of the model keep their types. A model with control flow keeps its FP16 throughout.
   Where asked (``rounded``), what an op computed in FP16 is rounded to FP16, and infinite beyond 65,504, behind each op
   alone, so that no kernel keeps more: the numbers of the FP16 model, by kernels that a CPU has. What only moves values
   needs no rounding, and codes that a GEMM multiplies are exact, whatever type they are cast to on the way.
2. Activations become uint8 with zero point 128 where asked (``unsigned``): the same grid shifted by 128, so every
   dequantised value is unchanged, and the form that VNNI's u8 x s8 instruction takes. Only where nothing but
   DequantizeLinear sees the codes.
3. Weights become uint8 in the same way where asked (``unsigned_weights``). x86 CPUs without VNNI multiply u8 by s8 with
   an instruction that adds two products in 16 bits, which saturates, and u8 by u8 with one that does not
   (microsoft/onnxruntime pull request 12088).
4. Channels that were split are repeated where that costs a CPU least (see ``early_gather``).
5. A sum that stands for a CumSum (see ``host_loops``) becomes one again: that needs no memory of length times length.
"""

import numpy as np
import onnx_ir as ir

from calib8.graph.running_sum import restore
from calib8.graph.values import MOVING, drop_unread, insert_behind, name_of, op_of
from calib8.passes.early_gather import early_gather
from calib8.passes.qdq_nodes import Constants

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
INT8, UINT8 = ir.DataType.INT8, ir.DataType.UINT8
#: Attributes that fix the type of an output.
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")
#: Operators that make no value that they have not read.
EXACT = (
    *(op for op in MOVING if op != "Cast"),
    "Abs",
    "Concat",
    "Max",
    "MaxPool",
    "Min",
    "Neg",
    "Relu",
    "Split",
    "Where",
)


def to_cpu_form(model: ir.Model, *, unsigned: bool, unsigned_weights: bool = False, rounded: bool = False) -> ir.Model:
    """Rewrite ``model`` in place and return it; rounded, uint8 activations and weights where asked (rules 1 to 3)."""
    restore(model)
    branches = next(iter(model.graph.subgraphs()), None) is not None
    if not branches:
        _to_single(model.graph, rounded=rounded)
    if unsigned:
        _shift_activations(model.graph)
    if not branches:
        model = early_gather(model)
    if unsigned_weights:
        _shift_weights(model.graph)
    return model


def _to_single(graph: ir.Graph, *, rounded: bool) -> None:
    half_outputs = [value.dtype == FP16 for value in graph.outputs]
    rounding = [v for node in graph if _rounds(node) for v in node.outputs if v.dtype == FP16 and v.uses()]
    for value in graph.initializers.values():
        if value.dtype == FP16 and value.const_value is not None and not value.is_graph_output():
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(FP32)  # assigning dtype would change the type shared with the original
    for node in graph:
        for value in node.outputs:
            if value.dtype == FP16:
                value.type = ir.TensorType(FP32)
        for attribute in TYPE_ATTRIBUTES:
            if attribute in node.attributes and node.attributes.get_int(attribute) == FP16:
                node.attributes[attribute] = ir.AttrInt64(attribute, int(FP32))
        fill = node.attributes.get_tensor("value") if node.op_type in ("Constant", "ConstantOfShape") else None
        if fill is not None and fill.dtype == FP16:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill.numpy().astype(np.float32)))
    _keep_interface(graph, half_outputs)
    for value in rounding if rounded else ():
        _round(graph, value)
    for node in list(graph):
        source, result = node.inputs[0] if node.op_type == "Cast" else None, node.outputs[0]
        if source is not None and source.dtype == result.dtype == FP32 and not result.is_graph_output():
            result.replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _rounds(node: ir.Node) -> bool:
    """Whether ``node`` makes values that its type has to hold."""
    source = node.inputs[0].producer() if op_of(node) == "Cast" and node.inputs[0] is not None else None
    return op_of(node) not in EXACT and (source is None or op_of(source) != "DequantizeLinear")


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let the readers of the FP32 ``value`` have what FP16 holds of it."""
    uses, constants = list(value.uses()), Constants(graph)
    half = _cast(constants, value, FP16, constants.free(f"{value.name}_rounded"))
    back = _cast(constants, half.outputs[0], FP32, constants.free(f"{value.name}_rounded_float"))
    insert_behind(graph, value, [half, back])
    for reader, index in uses:
        reader.replace_input_with(index, back.outputs[0])


def _keep_interface(graph: ir.Graph, half_outputs: list[bool]) -> None:
    """Cast behind FP16 inputs (and constants that are outputs), and in front of FP16 outputs."""
    constants = Constants(graph)
    for value in dict.fromkeys([*graph.inputs, *graph.initializers.values()]):
        if value.dtype == FP16 and (uses := list(value.uses())):
            cast = _cast(constants, value, FP32, constants.free(f"{value.name}_to_float"))
            graph.insert_before(graph[0], cast)
            for reader, index in uses:
                reader.replace_input_with(index, cast.outputs[0])
    for index, value in enumerate(graph.outputs):
        producer = value.producer()
        if half_outputs[index] and producer is not None:
            name, value.name = name_of(value), constants.free(f"{value.name}_float")
            cast = _cast(constants, value, FP16, name)
            graph.insert_after(producer, cast)
            graph.outputs[index] = cast.outputs[0]


def _cast(constants: Constants, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[output], name=constants.free(f"{name}_Cast"))


def _shift_activations(graph: ir.Graph) -> None:
    shifted: set[ir.Value] = set()
    for node in graph:
        if node.op_type != "QuantizeLinear" or "output_dtype" in node.attributes:
            continue
        codes = node.outputs[0]
        pair = [node, *(reader for reader, _ in codes.uses())]
        if codes.is_graph_output() or any(reader.op_type != "DequantizeLinear" for reader in pair[1:]):
            continue
        zero_points = [zero for member in pair if (zero := _signed_zero_point(member)) is not None]
        if len(zero_points) < len(pair):
            continue
        for member, zero in zip(pair, zero_points, strict=True):
            member.replace_input_with(2, _shifted(graph, zero))
            shifted.add(zero)
        codes.type = ir.TensorType(UINT8)
    for zero in shifted:
        drop_unread(graph, zero)


def _shift_weights(graph: ir.Graph) -> None:
    for codes in list(graph.initializers.values()):
        readers = [reader for reader, _ in codes.uses()]
        if codes.dtype != INT8 or codes.is_graph_output() or not readers:
            continue
        if any(reader.op_type != "DequantizeLinear" or reader.inputs[0] is not codes for reader in readers):
            continue
        zero_points = [zero for reader in readers if (zero := _signed_zero_point(reader)) is not None]
        if len(zero_points) < len(readers):
            continue
        for reader, zero in zip(readers, zero_points, strict=True):
            for place, value in ((0, codes), (2, zero)):
                reader.replace_input_with(place, _shifted(graph, value))
            drop_unread(graph, zero)
        drop_unread(graph, codes)


def _signed_zero_point(node: ir.Node) -> ir.Value | None:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    return zero if zero is not None and zero.const_value is not None and zero.dtype == INT8 else None


def _shifted(graph: ir.Graph, signed: ir.Value) -> ir.Value:
    """A constant with the INT8 codes of ``signed`` plus 128."""
    assert signed.const_value is not None
    name = f"{signed.name}_u8"
    if name not in graph.initializers:
        codes = signed.const_value.numpy().view(np.uint8) ^ np.uint8(128)  # of two's complement, the same as + 128
        graph.register_initializer(ir.val(name, const_value=ir.tensor(codes, name=name)))
    return graph.initializers[name]
