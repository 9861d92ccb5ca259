import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.errors import InputError, ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.numerics import dequantize, quantize, quantize_weight, scale_of
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

MODELS = [tiny_mlp, tiny_convnet, tiny_encoder]


def quantised(model: ir.Model, amax: float = 4.0, names: tuple[str, ...] | None = None) -> ir.Model:
    ops = [op for op in weighted_ops(model) if names is None or op.name in names]
    return insert_qdq(model, ops, {op.activation.name: amax for op in ops})


def nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type]


def constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    return value.const_value.numpy()


@pytest.mark.parametrize("make", MODELS)
def test_what_tensorrt_wants(make) -> None:
    model = quantised(prepare(make()))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    quantise, dequantise = nodes(model, "QuantizeLinear"), nodes(model, "DequantizeLinear")
    activations = {op.activation.name for op in weighted_ops(prepare(make()))}
    assert len(quantise) == len(activations)
    assert len(dequantise) == len(activations) + len(weighted_ops(prepare(make())))
    for node in quantise + dequantise:
        data, scale, zero_point = node.inputs
        assert constant(scale).dtype == np.float32
        assert (constant(scale) > 0).all()
        assert constant(zero_point).dtype == np.int8
        assert constant(zero_point).shape == constant(scale).shape
        assert not constant(zero_point).any()
        if data.const_value is not None:
            assert constant(data).dtype == np.int8
            assert constant(scale).shape == (constant(data).shape[node.attributes.get_int("axis")],)
        else:
            assert constant(scale).shape == ()
    for node in quantise:
        ((reader, index),) = node.outputs[0].uses()
        assert (reader.op_type, index) == ("DequantizeLinear", 0)
        assert list(reader.inputs[1:]) == list(node.inputs[1:])  # the same grid on both sides


def test_q_k_and_v_share_one_pair() -> None:
    model = quantised(prepare(tiny_encoder()))
    q, k, v = (next(node for node in model.graph if node.name == name) for name in "qkv")
    assert q.inputs[0] is k.inputs[0] is v.inputs[0]
    assert q.inputs[0].producer().op_type == "DequantizeLinear"
    assert len({id(node.inputs[1]) for node in (q, k, v)}) == 3


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes", "axis"),
    [
        ("MatMul", (4, 5), {}, 1),
        ("Gemm", (4, 5), {"transB": 0}, 1),
        ("Gemm", (5, 4), {"transB": 1}, 0),
        ("Conv", (5, 4, 1), {}, 0),
    ],
)
def test_weight_axis_and_numbers(op_type: str, shape: tuple[int, ...], attributes: dict[str, int], axis: int) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4, *[3] * (len(shape) - 2))
    weight = g.weight("w", *shape)
    float_weight = constant(weight)
    model = quantised(prepare(g.model(y=g.op(op_type, x, weight, name="op", **attributes))), amax=4.0)
    (node,) = [node for node in nodes(model, "DequantizeLinear") if node.inputs[0].const_value is not None]
    assert node.attributes.get_int("axis") == axis
    codes, scale = quantize_weight(float_weight, axis)
    np.testing.assert_array_equal(constant(node.inputs[0]), codes)
    np.testing.assert_array_equal(constant(node.inputs[1]), scale)
    assert constant(node.inputs[1]).shape == (5,)
    assert "w" not in model.graph.initializers


def test_result_by_hand() -> None:
    # amax 127: step 1, so x is rounded: (1.4, -2.6) -> (1, -3). The weight (0.5, 127) has step 1: (0, 127), half to
    # even. 1 x 0 - 3 x 127 = -381.
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    model = g.model(y=g.op("MatMul", x, g.constant("w", [[0.5], [127]]), name="op"))
    got = outputs_of(quantised(prepare(model), amax=127.0), {"x": np.float32([[1.4, -2.6]])})
    assert got["y"].tolist() == [[-381.0]]


@pytest.mark.parametrize("make", MODELS)
def test_close_to_float(make) -> None:
    feeds = {
        tiny_mlp: {"x": np.float32([[1, -2, 3, 0.5]])},
        tiny_convnet: {"image": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)},
        tiny_encoder: token_feeds(3, 7),
    }[make]
    expected, got = outputs_of(make(), feeds), outputs_of(quantised(prepare(make())), feeds)
    for name in expected:
        assert 0 < np.abs(got[name] - expected[name]).max() < 0.2  # 0 would mean that nothing was quantised


def test_only_the_chosen_ops_change() -> None:
    model = quantised(prepare(tiny_mlp()), names=("second",))
    assert [node.inputs[0].name for node in nodes(model, "QuantizeLinear")] == ["relu_out"]
    assert "first.weight" in model.graph.initializers
    assert [op.name for op in weighted_ops(model)] == ["first"]


def test_pair_serves_quantised_readers_only() -> None:
    model = quantised(prepare(tiny_encoder()), names=("q",))
    assert [op.name for op in weighted_ops(model)] == ["k", "v", "o", "up", "down"]
    assert next(n for n in model.graph if n.name == "k").inputs[0].name == "norm0_out"


def test_weight_shared_along_both_axes() -> None:
    g = GraphBuilder()
    x, w = g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("w", 4, 4)
    model = quantised(prepare(g.model(y=g.op("MatMul", g.op("Gemm", x, w, name="a", transB=1), w, name="b"))))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    axes = [
        n.attributes.get_int("axis") for n in nodes(model, "DequantizeLinear") if n.inputs[0].const_value is not None
    ]
    assert sorted(axes) == [0, 1]
    x_grid = scale_of(4.0)
    a = dequantize(quantize(np.float32([[1, 2, 3, 4]]), x_grid), x_grid)
    weight = constant(GraphBuilder().weight("w", 4, 4))
    rows, columns = (dequantize(c, s.reshape(shape)) for (c, s), shape in (
        (quantize_weight(weight, 0), (-1, 1)), (quantize_weight(weight, 1), (1, -1))))  # fmt: skip
    expected = dequantize(quantize(a @ rows.T, x_grid), x_grid) @ columns
    np.testing.assert_allclose(outputs_of(model, {"x": np.float32([[1, 2, 3, 4]])})["y"], expected, atol=1e-5)


def test_weight_shared_along_one_axis_is_stored_once() -> None:
    g = GraphBuilder()
    x, w = g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("w", 4, 4)
    model = quantised(prepare(g.model(y=g.op("MatMul", g.op("MatMul", x, w), w))))
    assert sum(constant(value).size == 16 for value in model.graph.initializers.values()) == 1


def test_names_that_are_taken() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    scaled = g.op("Mul", x, g.constant("norm_out_scale", [1, 2, 3, 4]), name="norm")
    model = quantised(prepare(g.model(y=g.op("MatMul", scaled, g.weight("w", 4, 2), name="op"))))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_array_equal(constant(model.graph.initializers["norm_out_scale"]), [1, 2, 3, 4])


def test_all_zero_activation_and_channel() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    model = quantised(prepare(g.model(y=g.op("MatMul", x, g.constant("w", [[0, 1], [0, 1]])))), amax=0.0)
    assert outputs_of(model, {"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[0, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_weight(bad: float) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2)
    model = prepare(g.model(y=g.op("MatMul", x, g.constant("w", [[1, bad], [0, 1]]))))
    with pytest.raises(ModelError, match="the weight 'w' holds NaN or infinity"):
        quantised(model)


def test_broken_range() -> None:
    with pytest.raises(InputError, match="amax is nan"):
        quantised(prepare(tiny_mlp()), amax=np.nan)


def test_fp16_model_is_refused() -> None:
    """Unless it was prepared."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT16, "batch", 2)
    model = g.model(y=g.op("MatMul", x, g.constant("w", np.eye(2), np.float16), name="op"))
    with pytest.raises(ModelError, match="node 'op' computes in FP16; expected an FP32 model"):
        quantised(model)


def test_a_weight_that_is_also_an_output_stays() -> None:
    g = GraphBuilder()
    x, w = g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("w", 4, 3)
    model = quantised(prepare(g.model(y=g.op("MatMul", x, w, name="mm"), w=w)))
    got = outputs_of(model, {"x": np.ones((1, 4), np.float32)})
    np.testing.assert_array_equal(got["w"], model.graph.initializers["w"].const_value.numpy())
