"""The same INT8 model in the form that CPU runtimes turn into integer kernels.

Rules:
1. FP16 becomes FP32: weights keep their FP16 values, arithmetic gains precision. CPUs have no fast FP16 GEMM.
2. Activations become uint8 with zero point 128 where asked (``unsigned``): the same grid shifted by 128, so every
   dequantised value is unchanged, and the form that VNNI's u8 x s8 instruction takes.
"""

import numpy as np
import onnx_ir as ir

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT


def to_cpu_form(model: ir.Model, *, unsigned: bool) -> ir.Model:
    """Rewrite ``model`` in place and return it; ``unsigned`` selects uint8 activations (rule 2)."""
    _to_single(model.graph)
    if unsigned:
        _shift_activations(model.graph)
    return model


def _to_single(graph: ir.Graph) -> None:
    for value in list(graph.initializers.values()):
        if value.dtype == FP16 and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(FP32)  # assigning dtype would change the type shared with the original
    for value in [*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)]:
        if value.dtype == FP16:
            value.type = ir.TensorType(FP32)  # assigning dtype would change the type shared with the original
    for node in list(graph):
        fill = node.attributes.get_tensor("value") if node.op_type == "ConstantOfShape" else None
        if fill is not None and fill.dtype == FP16:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill.numpy().astype(np.float32)))
        if node.op_type != "Cast" or node.attributes.get_int("to") not in (FP16, FP32):
            continue
        node.attributes["to"] = ir.AttrInt64("to", int(FP32))
        source, result = node.inputs[0], node.outputs[0]
        if source is not None and source.dtype == FP32 and not result.is_graph_output():
            result.replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _shift_activations(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type != "QuantizeLinear":
            continue
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        if zero_point is None or zero_point.const_value is None or zero_point.dtype != ir.DataType.INT8:
            continue
        shifted = _unsigned_zero_point(graph, zero_point)
        for reader in [node, *(reader for reader, _ in node.outputs[0].uses())]:
            reader.replace_input_with(2, shifted)
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _unsigned_zero_point(graph: ir.Graph, signed: ir.Value) -> ir.Value:
    assert signed.const_value is not None
    name = f"{signed.name}_u8"
    if name not in graph.initializers:
        codes = (signed.const_value.numpy().astype(np.int16) + 128).astype(np.uint8)
        graph.register_initializer(ir.val(name, const_value=ir.tensor(codes, name=name)))
    return graph.initializers[name]
