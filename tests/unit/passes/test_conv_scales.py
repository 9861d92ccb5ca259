"""FP16 scales for convolutions: what is rewritten, and what numbers it keeps."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calib8.graph.weighted import weighted_ops
from calib8.passes.conv_scales import SMALLEST, SMALLEST_NORMAL, takes_conv_scales, to_conv_scales
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
WEIGHT = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)


def conv_and_product(weight=WEIGHT, amax=4.0, behind_x=(), half=True):
    """z = mean(relu(conv(x))) @ m, both ops in INT8; ``behind_x``: nodes that make ``a``, which conv reads, of x."""
    nodes = [
        *behind_x,
        helper.make_node("Conv", ["a" if behind_x else "x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "m"], ["z"], name="product"),
    ]
    matrix = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(matrix, "m")],
    )
    model = prepare(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)))
    quantised = insert_qdq(model, weighted_ops(model), {"x": amax, "a": amax, "f": 2.0})
    return to_half(quantised) if half else quantised


def node(model, name):
    return next(found for found in model.graph if found.name == name)


def pairs(model, name):
    """(Q of the activation, its DQ, DQ of the weight) of the op called ``name``, Casts between left out."""
    activation, weight = (_behind_casts(value.producer()) for value in node(model, name).inputs[:2])
    return activation.inputs[0].producer(), activation, weight


def _behind_casts(found):
    return found.inputs[0].producer() if found.op_type == "Cast" else found


def scale(found):
    return found.inputs[1].const_value.numpy()


def weights_before_and_after(weight):
    return pairs(conv_and_product(weight), "conv")[2], pairs(to_conv_scales(conv_and_product(weight)), "conv")[2]


def test_a_convolution_gets_fp16_scales_and_a_product_keeps_fp32_ones():
    model = to_conv_scales(conv_and_product())
    quantise, dequantise, weight = pairs(model, "conv")
    assert [value.producer().op_type for value in node(model, "conv").inputs[:2]] == ["DequantizeLinear"] * 2
    assert dequantise.outputs[0].dtype == weight.outputs[0].dtype == HALF
    assert scale(dequantise).dtype == scale(weight).dtype == np.float16
    assert scale(dequantise) == np.float16(4 / 127)
    expected = (np.abs(WEIGHT).max(axis=(1, 2, 3)) / 127).astype(np.float16)
    assert np.array_equal(scale(weight), expected)
    assert scale(pairs(model, "product")[1]).dtype == scale(pairs(model, "product")[2]).dtype == np.float32
    assert quantise.inputs[0].name == "x"


def test_what_is_quantised_as_fp32_is_divided_by_the_same_number():
    quantise, dequantise, _ = pairs(to_conv_scales(conv_and_product()), "conv")
    assert scale(quantise).dtype == np.float32  # x is an input of the model, FP32
    assert scale(quantise) == np.float32(np.float16(4 / 127)) != np.float32(4 / 127)
    assert scale(dequantise) == np.float16(scale(quantise))


def test_what_was_cast_from_fp16_is_quantised_as_fp16():
    model = to_conv_scales(conv_and_product(behind_x=[helper.make_node("Relu", ["x"], ["a"], name="first")]))
    quantise, dequantise, _ = pairs(model, "conv")
    assert quantise.inputs[0].producer().op_type == "Relu"
    assert quantise.inputs[0].dtype == HALF
    assert quantise.inputs[1] is dequantise.inputs[1]


def test_a_small_weight_keeps_its_codes_below_the_normal_numbers():
    """As that of a convolution of images of 0 to 255 that a norm was folded into: by 2^-14 it would have codes to 3."""
    weight = WEIGHT.copy()
    weight[1] = np.linspace(-1, 1, 18).reshape(2, 3, 3) * 3 * float(SMALLEST_NORMAL)
    before, after = weights_before_and_after(weight)
    codes = after.inputs[0].const_value.numpy()
    assert scale(after)[1] == 25 * SMALLEST  # 3 / 127 * 2^-14 are 24.19 of them
    assert codes[1].min() == -123  # 127 * 24.19 / 25
    assert codes[1].max() == 123
    untouched = [0, 2]
    assert np.array_equal(codes[untouched], before.inputs[0].const_value.numpy()[untouched])
    assert np.abs(codes[1] * np.float32(25 * SMALLEST) - weight[1]).max() <= 1.01 * 25 * SMALLEST  # rounded twice


def test_a_weight_next_to_nothing_has_the_smallest_scale():
    weight = WEIGHT.copy()
    weight[1] = np.linspace(-1, 1, 18).reshape(2, 3, 3) * 3 * float(SMALLEST)
    codes = weights_before_and_after(weight)[1].inputs[0].const_value.numpy()[1]
    assert (codes.min(), codes.max()) == (-3, 3)


@pytest.mark.parametrize("amax", [127 * 2.0**-15, 127 * 2.0**17])
def test_an_activation_that_fp16_cannot_scale_keeps_its_form(amax):
    quantise, dequantise, weight = pairs(to_conv_scales(conv_and_product(amax=amax)), "conv")
    assert scale(quantise) == scale(dequantise) == np.float32(amax / 127)
    assert dequantise.outputs[0].dtype == FLOAT
    assert weight.outputs[0].dtype == HALF


def test_without_casts_before_a_convolution_there_is_nothing_to_do():
    """As in a model whose remainder is FP32, which TensorRT gets as the file that it is."""
    assert takes_conv_scales(conv_and_product())
    assert not takes_conv_scales(conv_and_product(half=False))
    model = to_conv_scales(conv_and_product())
    assert not takes_conv_scales(model)
    names = [found.name for found in model.graph]
    assert [found.name for found in to_conv_scales(model).graph] == names


def conv_beside_product(amax=4.0):
    """a = relu(x); c = conv(a), z = a @ m: one tensor, one grid, two kinds of readers."""
    matrix = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["a", "m"], ["z"], name="product"),
    ]
    shapes = {"x": [2, 4, 4], "c": [3, 4, 4], "z": [2, 4, 5]}
    ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *dims]) for n, dims in shapes.items()}
    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(matrix, "m")]
    graph = helper.make_graph(nodes, "g", [ends["x"]], [ends["c"], ends["z"]], weights)
    model = prepare(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)))
    return to_half(insert_qdq(model, weighted_ops(model), {"a": amax}))


def test_a_product_that_reads_the_same_activation_keeps_fp32_scales_of_the_same_numbers():
    model = conv_beside_product()
    assert takes_conv_scales(model)
    to_conv_scales(model)
    quantise, of_conv, weight = pairs(model, "conv")
    again, of_product, matrix = pairs(model, "product")
    assert again is quantise
    assert of_conv is not of_product
    assert [value.producer().op_type for value in node(model, "conv").inputs[:2]] == ["DequantizeLinear"] * 2
    assert [value.producer().op_type for value in node(model, "product").inputs[:2]] == ["Cast"] * 2
    assert [scale(found).dtype for found in (of_conv, weight)] == [np.float16] * 2
    assert [scale(found).dtype for found in (quantise, of_product, matrix)] == [np.float32] * 3
    assert scale(quantise) == scale(of_product) == np.float32(scale(of_conv)) == np.float32(np.float16(4 / 127))
    assert len([found for found in model.graph if found.op_type == "DequantizeLinear"]) == 4
    assert not takes_conv_scales(model)


def test_both_readers_compute_what_they_did():
    """A CPU takes no FP16 scales in opset 17, so Q/DQ in FP16 is written out: codes, cast, times scale."""
    feeds = {"x": np.random.default_rng(2).uniform(-4, 4, (2, 2, 4, 4)).astype(np.float32)}
    before = outputs_of(conv_beside_product(), feeds)
    model = to_conv_scales(conv_beside_product())
    for found in [one for one in model.graph if one.op_type == "DequantizeLinear" and scale(one).dtype == np.float16]:
        codes, numbers = found.inputs[0], found.inputs[1].const_value.numpy()
        axis = found.attributes.get_int("axis", 1)
        rank = len(codes.shape)
        numbers = (
            numbers.reshape([-1 if place == axis else 1 for place in range(rank)]) if numbers.size > 1 else numbers
        )
        half = ir.node("Cast", [codes], {"to": int(HALF)})
        factor = ir.val(f"{found.name}.factor", const_value=ir.tensor(numbers, name=f"{found.name}.factor"))
        model.graph.register_initializer(factor)
        product = ir.node("Mul", [half.outputs[0], factor])
        model.graph.insert_after(found, [half, product])
        found.outputs[0].replace_all_uses_with(product.outputs[0])
        model.graph.remove(found, safe=True)
    after = outputs_of(model, feeds)
    assert set(after) == {"c", "z"}
    for name, expected in before.items():  # steps of the grid are 4 / 127, and its scale moved by less than 2**-11
        assert np.abs(after[name] - expected).max() < 0.02 * np.abs(expected).max(), name


@pytest.mark.parametrize("amax", [127 * 2.0**-15, 127 * 2.0**17])
def test_a_shared_activation_that_fp16_cannot_scale_keeps_its_form(amax):
    model = to_conv_scales(conv_beside_product(amax))
    assert pairs(model, "conv")[1] is pairs(model, "product")[1]
    assert scale(pairs(model, "conv")[1]) == np.float32(amax / 127)


@given(st.lists(st.floats(2.0**-30, 2.0**10, width=32), min_size=3, max_size=3))
def test_no_weight_moves_by_more_than_its_scale_was_rounded(magnitudes):
    weight = (WEIGHT / np.abs(WEIGHT).max(axis=(1, 2, 3), keepdims=True)) * np.float32(magnitudes).reshape(3, 1, 1, 1)
    before, after = (
        pairs(model, "conv")[2] for model in (conv_and_product(weight), to_conv_scales(conv_and_product(weight)))
    )
    old, new = (
        found.inputs[0].const_value.numpy() * scale(found).astype(np.float32).reshape(3, 1, 1, 1)
        for found in (before, after)
    )
    step = scale(after).astype(np.float32).reshape(3, 1, 1, 1)
    allowed = np.where(step < SMALLEST_NORMAL, 0.5 * step, np.abs(old) * 2.0**-11) * 1.001
    assert (np.abs(old - new) <= allowed).all()


def test_a_weight_beyond_fp16_keeps_its_form():
    weight = WEIGHT.copy()
    weight[0, 0, 0, 0] = 127 * 2.0**17
    before, after = weights_before_and_after(weight)
    assert after.outputs[0].dtype == FLOAT
    assert np.array_equal(scale(after), scale(before))


@pytest.mark.parametrize("axis", [0, 1, -3, None])
def test_small_scales_along_any_axis_keep_their_weights(axis):
    """Other tools' scales along the inputs, or one for all: TensorRT's to judge, and no reason to fail."""
    model = conv_and_product()
    weight = pairs(model, "conv")[2]
    count = 1 if axis is None else WEIGHT.shape[axis]
    scales = np.full(count, 1.5 * SMALLEST, np.float32)
    weight.inputs[1].const_value = ir.tensor(scales if axis is not None else scales[0])
    weight.attributes["axis"] = ir.AttrInt64("axis", axis or 0)
    weight.attributes["output_dtype"] = ir.AttrInt64("output_dtype", int(FLOAT))
    codes = weight.inputs[0].const_value.numpy()
    after = pairs(to_conv_scales(model), "conv")[2]
    assert (scale(after) == 2 * SMALLEST).all()
    assert np.array_equal(after.inputs[0].const_value.numpy(), np.rint(codes * 0.75).astype(np.int8))
    assert "output_dtype" not in after.attributes
