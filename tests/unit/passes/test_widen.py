"""A model that computes in FP16 or BF16 is prepared as the FP32 original whose weights were rounded once."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.transformers.float16 import convert_float_to_float16

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, weight_bytes
from calib8.graph.mapped import mapped_weight
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of, tiny_encoder, token_feeds

FP16, BF16, FP32 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


def halved(model: ir.Model, *, keep_io: bool = True) -> ir.Model:
    """As a tool halves it that people use."""
    return ir.from_proto(convert_float_to_float16(ir.to_proto(model), keep_io_types=keep_io))


def floats(model: ir.Model) -> set[ir.DataType]:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    values += [value for node in model.graph.all_nodes() for value in node.outputs]
    return {value.dtype for value in values if value.dtype in (FP16, BF16, FP32)}


@pytest.mark.parametrize("keep_io", [True, False])
def test_what_a_tool_halved_is_the_original_with_rounded_weights(keep_io: bool) -> None:
    original = tiny_encoder(vocabulary=64, width=64)
    prepared = prepare(halved(original.clone(), keep_io=keep_io))
    expected = prepare(original.clone())
    for value in expected.graph.initializers.values():
        array = value.const_value.numpy()
        if value.dtype == FP32 and np.abs(array).max() < 1e4:  # the mask's -3.4e38 becomes -1e4, and masks as well
            value.const_value = ir.tensor(array.astype(np.float16).astype(np.float32), name=value.name)
    assert [(op.name, op.kind) for op in weighted_ops(prepared)] == [
        (op.name, op.kind) for op in weighted_ops(expected)
    ]
    for got, wanted in zip(weighted_ops(prepared), weighted_ops(expected), strict=True):
        assert np.array_equal(got.weight_array(), wanted.weight_array())
    feeds = token_feeds(3, 7, vocabulary=64)
    got, wanted = outputs_of(prepared, feeds), outputs_of(expected, feeds)
    for name, array in wanted.items():
        assert got[name].dtype == (np.float32 if keep_io else np.float16)
        np.testing.assert_allclose(got[name], array, atol=1e-4 if keep_io else 4e-3)


def test_inputs_and_outputs_keep_their_types() -> None:
    """0.1 in FP16 is 0.0999755859375; 3 times 2,049 of these is 614.55, in FP16 614.5."""
    g = GraphBuilder()
    x = g.input("x", FP16, "batch", 2049)
    model = prepare(g.model(y=g.op("MatMul", x, g.constant("w", np.full((2049, 1), 0.1), np.float16), name="op")))
    assert (model.graph.inputs[0].dtype, model.graph.outputs[0].dtype) == (FP16, FP16)
    assert [node.op_type for node in model.graph] == ["Cast", "MatMul", "Cast"]
    [op] = weighted_ops(model)
    assert (op.activation.dtype, op.weight.dtype, op.node.outputs[0].dtype) == (FP32, FP32, FP32)
    assert op.weight_array()[0, 0] == 0.0999755859375
    got = outputs_of(model, {"x": np.full((1, 2049), 3, np.float16)})["y"]
    assert (got.dtype, got.tolist()) == (np.float16, [[614.5]])


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_types_in_attributes_and_bodies(half: type) -> None:
    """ONNX 20 is the first with a ConstantOfShape in BF16."""
    g, dtype = GraphBuilder(opset=20), ir.DataType.from_numpy(np.dtype(half))
    x = g.input("x", FP32, "batch", 4)
    h = g.op("Cast", x, to=int(dtype))
    h = g.op("MatMul", h, g.constant("w", np.eye(4), half), name="op")
    fill = g.op("ConstantOfShape", g.op("Shape", x), value=ir.tensor(np.ones(1, half)))
    inside = ir.Value(name="inside", type=ir.TensorType(dtype), shape=ir.Shape(["batch", 4]))
    body = ir.Graph([], [inside], nodes=[ir.node("Add", [h, fill], outputs=[inside])], name="then")
    other = ir.Value(name="other", type=ir.TensorType(dtype), shape=ir.Shape(["batch", 4]))
    branch = ir.Graph([], [other], nodes=[ir.node("Sub", [h, fill], outputs=[other])], name="else")
    flag = g.op("Greater", g.op("ReduceSum", x, keepdims=0), g.constant("zero", 0.0))
    chosen = g.op("If", flag, name="choice", then_branch=body, else_branch=branch)
    prepared = prepare(g.model(y=g.op("Cast", chosen, to=int(FP32))))
    assert floats(prepared) == {FP32}
    assert [node.outputs[0].name for node in prepared.graph if node.op_type == "Cast"] == ["y"]
    rows = np.array([[1, 2, 3, 4097]], np.float32)  # neither FP16 nor BF16 has 4,097
    assert outputs_of(prepared, {"x": rows})["y"].tolist() == [[2, 3, 4, 4098]]
    assert outputs_of(prepared, {"x": -rows})["y"].tolist() == [[-2, -3, -4, -4098]]


def test_large_weights_stay_in_the_file(tmp_path: Path) -> None:
    ir.save(halved(tiny_encoder(vocabulary=64, width=128)), tmp_path / "model.onnx")
    prepared = prepare(load(tmp_path / "model.onnx"))
    assert all(mapped_weight(op.weight.const_value) is not None for op in weighted_ops(prepared))
    assert weight_bytes(prepared, mapped=False) < 0.1 * weight_bytes(prepared)


def test_a_quantised_model_stays_as_it_is() -> None:
    g = GraphBuilder()
    x = g.input("x", FP16, "batch", 4)
    scale, zero = g.constant("s", 0.1, np.float16), g.constant("z", 0, np.int8)
    g.opset = 19
    h = g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)
    prepared = prepare(g.model(y=g.op("MatMul", h, g.constant("w", np.eye(4), np.float16))))
    assert floats(prepared) == {FP16}


def test_an_input_that_is_an_output_and_one_that_nobody_reads_keep_their_types() -> None:
    g = GraphBuilder()
    x, y = g.input("x", FP16, "batch", 4), g.op("Neg", g.input("z", FP16, "batch", 4))
    g.input("unread", FP16, "batch", 4)
    model = g.model(y=y, x=x)
    prepared = prepare(model)
    assert [value.dtype for value in (*prepared.graph.inputs, *prepared.graph.outputs)] == [FP16] * 5
    got = outputs_of(prepared, {name: np.ones((1, 4), np.float16) for name in ("x", "z", "unread")})
    assert {name: array.tolist() for name, array in got.items()} == {"y": [[-1.0] * 4], "x": [[1.0] * 4]}
