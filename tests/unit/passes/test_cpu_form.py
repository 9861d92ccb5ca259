import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import serialized
from calib8.graph.weighted import weighted_ops
from calib8.passes.cpu_form import to_cpu_form
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

FEEDS = {
    tiny_mlp: {"x": np.float32([[1, -2, 3, 0.5], [4, 4, -4, -4]])},
    tiny_convnet: {"image": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)},
    tiny_encoder: token_feeds(3, 7),
}
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def quantised(make, *, half: bool) -> ir.Model:
    model = prepare(make())
    ops = weighted_ops(model)
    insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})
    return to_half(model) if half else model


@pytest.mark.parametrize("make", FEEDS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
def test_the_model_that_was_cloned_never_changes(make, half: bool, unsigned: bool) -> None:
    original = quantised(make, half=half)
    before = serialized(original)
    form = to_cpu_form(original.clone(), unsigned=unsigned)
    assert serialized(original) == before
    onnx.checker.check_model(ir.to_proto(form), full_check=True)
    assert serialized(form) != before or not (half or unsigned)


@pytest.mark.parametrize("make", FEEDS)
@pytest.mark.parametrize("weights", [False, True])
def test_unsigned_equals_signed(make, weights: bool) -> None:
    signed = to_cpu_form(quantised(make, half=False), unsigned=False)
    unsigned = to_cpu_form(quantised(make, half=False), unsigned=True, unsigned_weights=weights)
    onnx.checker.check_model(ir.to_proto(unsigned), full_check=True)
    assert_models_equal(signed, unsigned, FEEDS[make], atol=0)


def test_unsigned_weights_are_the_same_codes_plus_128() -> None:
    signed, form = (
        quantised(tiny_mlp, half=False),
        to_cpu_form(quantised(tiny_mlp, half=False), unsigned=True, unsigned_weights=True),
    )
    before, after = (
        [n.inputs for n in m.graph if n.op_type == "DequantizeLinear" and n.inputs[0].const_value is not None]
        for m in (signed, form)
    )
    assert len(before) == len(after) == 2
    for (codes, _, zeros), (shifted, _, moved) in zip(before, after, strict=True):
        np.testing.assert_array_equal(shifted.const_value.numpy(), codes.const_value.numpy().astype(int) + 128)
        np.testing.assert_array_equal(moved.const_value.numpy(), zeros.const_value.numpy().astype(int) + 128)
        assert shifted.dtype == moved.dtype == ir.DataType.UINT8
    assert all(value.dtype != ir.DataType.INT8 for value in form.graph.initializers.values())


def test_unsigned_form_is_the_same_grid_shifted_by_128() -> None:
    model = to_cpu_form(quantised(tiny_mlp, half=False), unsigned=True)
    quantise = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    assert len(quantise) == 2
    for node in quantise:
        ((reader, _),) = node.outputs[0].uses()
        assert node.inputs[2] is reader.inputs[2]
        assert node.inputs[2].const_value.numpy() == np.uint8(128)
        assert node.outputs[0].dtype == ir.DataType.UINT8
    weights = [n for n in model.graph if n.op_type == "DequantizeLinear" and n.inputs[0].const_value is not None]
    assert [node.inputs[2].dtype for node in weights] == [ir.DataType.INT8] * 2


@pytest.mark.parametrize("make", FEEDS)
def test_fp16_is_undone(make) -> None:
    form = to_cpu_form(quantised(make, half=True), unsigned=False)
    assert HALF not in {value.dtype for node in form.graph for value in (*node.inputs, *node.outputs) if value}
    plain = quantised(make, half=False)

    def ops(model: ir.Model) -> list[str]:  # what remains of Cast: at most one FP32 -> FP32 in front of an output
        return [node.op_type for node in model.graph if node.op_type != "Cast"]

    assert ops(form) == ops(plain)
    # weights keep their FP16 values: 2^-11 of values up to 4, or a step of 4 / 127 where that tips a rounding
    assert_models_equal(plain, form, FEEDS[make], atol=0.06)


def test_fp32_model_is_left_alone() -> None:
    model = prepare(tiny_encoder())
    before = serialized(model)
    assert serialized(to_cpu_form(model, unsigned=True)) == before


def test_fp16_fill_becomes_fp32() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2)
    filled = g.op("ConstantOfShape", g.op("Shape", x), value=ir.tensor(np.float32([0.5])))
    model = to_half(prepare(g.model(y=g.op("Add", x, filled))))
    form = to_cpu_form(model.clone(), unsigned=False)
    assert outputs_of(form, {"x": np.float32([[1, 2]])})["y"].tolist() == [[1.5, 2.5]]


def test_foreign_quantised_model_without_zero_points() -> None:
    g = GraphBuilder()
    x, scale = g.input("x", FLOAT, "batch", 2), g.constant("s", 0.5)
    model = prepare(g.model(y=g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale), scale)))
    before = outputs_of(model, {"x": np.float32([[1, 2]])})["y"].tolist()
    form = to_cpu_form(model, unsigned=True, unsigned_weights=True)
    assert outputs_of(form, {"x": np.float32([[1, 2]])})["y"].tolist() == before == [[1, 2]]


def half_model(node: str) -> ir.Model:
    """``x`` FP16 -> Add of a constant that is an initializer or a Constant node -> ``y`` FP16."""
    g = GraphBuilder()
    x = g.input("x", HALF, "batch", 2)
    one = np.ones(2, np.float16)
    constant = g.op("Constant", value=ir.tensor(one)) if node == "Constant" else g.constant("one", one, np.float16)
    return g.model(y=g.op("Add", x, constant, name="add"))


@pytest.mark.parametrize("node", ["Constant", "initializer"])
def test_fp16_inputs_and_outputs_keep_their_types(node: str) -> None:
    form = to_cpu_form(half_model(node), unsigned=False)
    onnx.checker.check_model(ir.to_proto(form), full_check=True)
    assert {n.name: n.outputs[0].dtype for n in form.graph}["add"] == FLOAT
    y = outputs_of(form, {"x": np.float16([[1, 2]])})["y"]
    assert (y.dtype, y.tolist()) == (np.float16, [[2, 3]])


def test_fp16_values_that_are_outputs_as_they_are() -> None:
    g = GraphBuilder()
    x, w = g.input("x", HALF, "batch", 2), g.constant("w", np.ones(2), np.float16)
    model = g.model(y=g.op("Cast", g.op("Mul", x, w), to=int(FLOAT)), w=w)
    model.graph.outputs.append(model.graph.inputs[0])
    form = to_cpu_form(model, unsigned=False)
    onnx.checker.check_model(ir.to_proto(form), full_check=True)
    session = ReferenceEvaluator(ir.to_proto(form))
    y, w_out, x_out = session.run(None, {"x": np.float16([[1, 2]])})
    assert (y.dtype, w_out.dtype, x_out.dtype) == (np.float32, np.float16, np.float16)
    assert (y.tolist(), w_out.tolist()) == ([[1, 2]], [1, 1])


@pytest.mark.parametrize("reader", ["Transpose", "output", "zero point of its own"])
def test_codes_that_something_else_sees_stay_signed(reader: str) -> None:
    g = GraphBuilder(opset=21)
    x, scale = g.input("x", FLOAT, "batch", 2), g.constant("s", 0.5)
    zero, own = g.constant("z", 0, np.int8), g.constant("z2", 1, np.int8)
    codes = g.op("QuantizeLinear", x, scale, zero)
    seen = g.op("Transpose", codes, perm=[1, 0]) if reader == "Transpose" else codes
    y = g.op("DequantizeLinear", seen, scale, own if reader.startswith("zero") else zero)
    model = g.model(y=y, codes=codes) if reader == "output" else g.model(y=y)
    before = outputs_of(model, {"x": np.float32([[1, -2]])})
    form = to_cpu_form(model, unsigned=True)
    onnx.checker.check_model(ir.to_proto(form), full_check=True)
    after = outputs_of(form, {"x": np.float32([[1, -2]])})
    assert {name: (a.dtype, a.tolist()) for name, a in before.items()} == {
        name: (a.dtype, a.tolist()) for name, a in after.items()
    }
