"""Residuals that are added from codes: which, and what that does to the numbers."""

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.passes.conv_scales import takes_conv_scales, to_conv_scales
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT = ir.DataType.FLOAT
FEEDS = {"x": np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)}


class Net(GraphBuilder):
    """Residual blocks of four channels."""

    def conv(self, x: ir.Value, name: str) -> ir.Value:
        """3x3."""
        return self.op("Conv", x, self.weight(f"{name}.w", 4, 4, 3, 3), name=name, pads=[1, 1, 1, 1])


def block() -> ir.Model:
    """y = conv3(relu(conv2(x) + x)), x read by conv2 and the sum."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", FLOAT, "batch", 4, 8, 8), "conv1"), name="relu1")
    added = g.op("Add", g.conv(x, "conv2"), x, name="sum")
    return prepare(g.model(y=g.conv(g.op("Relu", added, name="relu2"), "conv3")))


def quantised(model: ir.Model, optimize: str, **options: object) -> ir.Model:
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize=optimize, **options)
    return calib8.quantize(model, calib8.calibrate(model, [FEEDS]), config)


def operand(model: ir.Model) -> ir.Node:
    """What computes the second operand of the sum, Casts left out."""
    found = next(node for node in model.graph if node.name == "sum").inputs[1].producer()
    return found.inputs[0].producer() if found.op_type == "Cast" else found


def test_for_latency_the_sum_reads_what_the_convolution_reads() -> None:
    fast, accurate = (quantised(block(), goal, remainder="fp32") for goal in ("latency", "accuracy"))
    conv2 = next(node for node in fast.graph if node.name == "conv2")
    assert operand(fast) is conv2.inputs[0].producer()
    assert operand(fast).op_type == "DequantizeLinear"
    assert operand(accurate).op_type == "Relu"
    pairs = [sum(node.op_type == "QuantizeLinear" for node in model.graph) for model in (fast, accurate)]
    assert pairs == [3, 3], "no tensor is quantised that was not"


def test_the_sum_is_that_of_the_codes() -> None:
    """Half a step of x at most, since the convolution sees the codes anyway."""
    fast, accurate = (quantised(block(), goal, remainder="fp32") for goal in ("latency", "accuracy"))
    for model in (fast, accurate):
        model.graph.outputs.append(next(node for node in model.graph if node.name == "sum").outputs[0])
    one, other = (outputs_of(model, FEEDS)["sum_out"] for model in (fast, accurate))
    step = float(operand(fast).inputs[1].const_value.numpy())
    difference = np.abs(one - other).max()
    assert 0 < difference <= step / 2 * 1.0001


def test_convolutions_keep_fp16_scales_beside_it() -> None:
    """The form that TensorRT 10 builds; the sum reads FP16."""
    fast = quantised(block(), "latency")
    assert takes_conv_scales(fast)
    to_conv_scales(fast)
    read = operand(fast)
    assert read.op_type == "DequantizeLinear"
    assert read.outputs[0].dtype == ir.DataType.FLOAT16
    assert not [node.name for node in fast.graph if node.op_type == "Cast" and "relu1" in node.name]


def blocks(*, read_again: bool = False) -> ir.Model:
    """y = mean(conv3(x) + x) of x = relu(conv2(x') + x'): the last sum stays float."""
    g = Net()
    first = g.op("Relu", g.conv(g.input("x", FLOAT, "batch", 4, 8, 8), "conv1"))
    x = g.op("Relu", g.op("Add", g.conv(first, "conv2"), first, name="first"), name="relu2")
    y = g.op("GlobalAveragePool", g.op("Add", g.conv(x, "conv3"), x, name="sum"))
    return prepare(g.model(y=g.op("Add", y, g.op("GlobalAveragePool", x)) if read_again else y))


def test_a_sum_that_stays_float_reads_the_codes_of_what_is_then_nothing_but_codes() -> None:
    fast = quantised(blocks(), "latency", remainder="fp32")
    assert operand(fast).op_type == "DequantizeLinear"
    relu2 = next(node for node in fast.graph if node.name == "relu2")
    assert {reader.op_type for reader, _ in relu2.outputs[0].uses()} == {"QuantizeLinear"}


def test_but_not_of_what_is_read_in_float_beside_it() -> None:
    assert operand(quantised(blocks(read_again=True), "latency", remainder="fp32")).op_type == "Relu"


@pytest.mark.parametrize("why", ["float", "read twice", "no convolution", "no codes"])
def test_other_sums_stay(why: str) -> None:
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", FLOAT, "batch", 4, 8, 8), "conv1"), name="relu1")
    convolved = g.conv(x, "conv2")
    other = g.op("Sigmoid", x) if why == "no codes" else x
    added = g.op("Add", g.op("Relu", convolved) if why == "no convolution" else convolved, other, name="sum")
    y = g.op("Mul", added, convolved) if why == "read twice" else added
    model = prepare(g.model(y=g.conv(y, "conv3")))
    fast = quantised(model, "latency", remainder="fp32", exclude=["conv2"] if why == "float" else [])
    assert operand(fast).op_type == ("Sigmoid" if why == "no codes" else "Relu")


def shortcut(*, quantised_after: bool = True) -> ir.Model:
    """y = conv4(relu(conv2(x) + conv3(x)))."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", FLOAT, "batch", 4, 8, 8), "conv1"), name="relu1")
    added = g.op("Add", g.conv(x, "conv2"), g.conv(x, "conv3"), name="sum")
    total = g.op("Relu", added, name="relu2")
    return prepare(g.model(y=g.conv(total, "conv4") if quantised_after else g.op("GlobalAveragePool", total)))


def test_of_two_convolutions_the_second_operand_gets_codes() -> None:
    model = shortcut()
    ranges = calib8.calibrate(model, [FEEDS])
    assert set(ranges.tensors) == {"x", "relu1_out", "relu2_out", "conv3_out"}
    fast = calib8.quantize(model, ranges, calib8.Int8(min_sqnr_db=0, optimize="latency", remainder="fp32"))
    dequantise = operand(fast)
    assert dequantise.op_type == "DequantizeLinear"
    read = dequantise.inputs[0].producer().inputs[0]
    assert read.name == "conv3_out"
    seen = np.abs(outputs_of(with_output(model, "conv3_out"), FEEDS)["conv3_out"]).max()
    assert dequantise.inputs[1].const_value.numpy() == pytest.approx(seen / 127, rel=1e-6)
    exact, got = (outputs_of(one, FEEDS)["y"] for one in (model, fast))
    assert np.abs(exact - got).max() < 0.05 * np.abs(exact).max()


def test_its_codes_reach_the_sum_without_a_cast() -> None:
    """A Cast that the sum of TensorRT 10 stands behind is a copy of them."""
    model = shortcut()
    fast = calib8.quantize(model, calib8.calibrate(model, [FEEDS]), calib8.Int8(min_sqnr_db=0, optimize="latency"))
    to_conv_scales(fast)
    conv3, total = (next(node for node in fast.graph if node.name == name) for name in ("conv3", "sum"))
    ((quantise, _),) = conv3.outputs[0].uses()
    assert quantise.op_type == "QuantizeLinear"
    assert total.inputs[1].producer().op_type == "DequantizeLinear"
    assert total.inputs[1].dtype == ir.DataType.FLOAT16


def with_output(model: ir.Model, name: str) -> ir.Model:
    changed = model.clone()
    changed.graph.outputs.append(next(v for node in changed.graph for v in node.outputs if v.name == name))
    return changed


@pytest.mark.parametrize("why", ["accuracy", "no codes behind it", "one in float", "no range"])
def test_other_sums_of_two_stay(why: str) -> None:
    model = shortcut(quantised_after=why != "no codes behind it")
    ranges = calib8.calibrate(model, [FEEDS])
    if why == "no range":
        kept = {name: tensor for name, tensor in ranges.tensors.items() if name != "conv3_out"}
        ranges = ranges.model_copy(update={"tensors": kept})
    goal = "accuracy" if why == "accuracy" else "latency"
    exclude = ["conv2"] if why == "one in float" else []
    config = calib8.Int8(min_sqnr_db=0, optimize=goal, exclude=exclude)
    assert operand(calib8.quantize(model, ranges, config)).op_type == "Conv"


def test_a_norm_between_convolution_and_sum_is_no_obstacle() -> None:
    """The range is of what the norm computes, which the convolution does once it is folded."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", FLOAT, "batch", 4, 8, 8), "conv1"), name="relu1")
    scaled = g.op("Mul", g.conv(x, "conv3"), g.constant("c", np.reshape([1, 2, 3, 4], (4, 1, 1))), name="norm")
    added = g.op("Add", g.conv(x, "conv2"), scaled, name="sum")
    model = prepare(g.model(y=g.conv(g.op("Relu", added), "conv4")))
    ranges = calib8.calibrate(model, [FEEDS])
    assert "norm_out" in ranges.tensors
    fast = calib8.quantize(model, ranges, calib8.Int8(min_sqnr_db=0, optimize="latency", remainder="fp32"))
    assert operand(fast).op_type == "DequantizeLinear"
    assert operand(fast).inputs[0].producer().inputs[0].producer().name == "conv3"
