"""Convolutions between codes and codes: which compute in FP32, and what that changes."""

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.passes.codes_to_codes import codes_to_codes
from calib8.passes.conv_scales import to_conv_scales
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
FEEDS = {"x": np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)}


class Net(GraphBuilder):
    """Convolutions of four channels with h-swish written out."""

    def start(self) -> ir.Value:
        return self.input("x", FLOAT, "batch", 4, 8, 8)

    def conv(self, x: ir.Value, name: str) -> ir.Value:
        """3x3 with a bias."""
        weights = self.weight(f"{name}.w", 4, 4, 3, 3), self.constant(f"{name}.b", np.linspace(-1, 1, 4))
        return self.op("Conv", x, *weights, name=name, pads=[1, 1, 1, 1])

    def swish(self, x: ir.Value, name: str) -> ir.Value:
        """x * clip(x + 3, 0, 6) / 6."""
        three, none, six = (self.constant(f"{name}.{number}", np.float32(number)) for number in (3, 0, 6))
        factor = self.op("Clip", self.op("Add", x, three, name=f"{name}.add"), none, six)
        return self.op("Div", self.op("Mul", x, factor), six, name=f"{name}.div")


def quantised(g: Net, y: ir.Value, **options: object) -> ir.Model:
    model = prepare(g.model(y=y))
    config = calib8.Int8(**{"min_sqnr_db": 0, "treatment": "plain", "optimize": "latency", **options})
    return calib8.quantize(model, calib8.calibrate(model, [FEEDS]), config)


def types(model: ir.Model, *names: str) -> list[ir.DataType | None]:
    return [node.outputs[0].dtype for name in names for node in model.graph if node.name == name]


def chain() -> ir.Model:
    """y = conv2(swish(conv1(relu(x))))."""
    g = Net()
    first = g.conv(g.op("Relu", g.start()), "conv1")
    return quantised(g, g.conv(g.swish(first, "swish"), "conv2"))


def test_what_stands_between_codes_computes_in_fp32() -> None:
    model = chain()
    assert codes_to_codes(model)
    assert types(model, "conv1", "swish.add", "swish.div", "conv2") == [FLOAT, FLOAT, FLOAT, HALF]
    conv1, quantise = (next(node for node in model.graph if node.name == name) for name in ("conv1", "swish.div"))
    assert [value.producer().op_type for value in conv1.inputs[:2]] == ["DequantizeLinear"] * 2
    assert {reader.op_type for reader, _ in quantise.outputs[0].uses()} == {"QuantizeLinear"}
    assert not codes_to_codes(model)


def test_it_computes_what_it_did() -> None:
    """But for the rounding to FP16 that is no longer done: a code may be the next one."""
    model = chain()
    before = outputs_of(model, FEEDS)["y"]
    codes_to_codes(model)
    assert np.abs(outputs_of(model, FEEDS)["y"] - before).max() < 0.02 * np.abs(before).max()


def test_the_next_convolution_gets_fp16_scales_still() -> None:
    model = chain()
    codes_to_codes(model)
    to_conv_scales(model)
    conv1, conv2 = (next(node for node in model.graph if node.name == name) for name in ("conv1", "conv2"))
    assert {value.dtype for value in conv1.inputs} == {FLOAT}
    assert {value.dtype for value in conv2.inputs} == {HALF}


@pytest.mark.parametrize(("kind", "opset"), [("HardSwish", 18), ("Gelu", 20), ("LeakyRelu", 18), ("Tanh", 18)])
def test_an_activation_that_is_one_op_computes_in_fp32_too(kind: str, opset: int) -> None:
    """Of HardSwish and Gelu TensorRT makes the constants itself, in the type that it finds."""
    g = Net(opset)
    first = g.conv(g.op("Relu", g.start()), "conv1")
    model = quantised(g, g.conv(g.op(kind, first, name="activation"), "conv2"))
    assert codes_to_codes(model)
    assert types(model, "conv1", "activation", "conv2") == [FLOAT, FLOAT, HALF]


STAY = ["no constants", "bounds alone", "read in float", "another tensor", "float weight", "no codes", "bias"]


@pytest.mark.parametrize("why", STAY)
def test_other_convolutions_stay(why: str) -> None:
    g = Net()
    x = g.op("Relu", g.start())
    first = g.conv(x, "conv1")
    if why == "bias":  # computed
        bias = g.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0)
        first = g.op("Conv", x, g.weight("w", 4, 4, 3, 3), bias, name="conv1b", pads=[1, 1, 1, 1])
    bounds = [g.constant(f"bound{number}", np.float32(number)) for number in (0, 6)]
    behind = {
        "no constants": lambda: g.op("Mul", first, g.op("Sigmoid", first)),
        "bounds alone": lambda: g.op("Clip", first, *bounds),
        "another tensor": lambda: g.op("Add", g.swish(first, "swish"), g.op("Sigmoid", x)),
    }.get(why, lambda: g.swish(first, "swish"))()
    y = behind if why == "no codes" else g.conv(behind, "conv2")
    y = g.op("Add", y, g.op("Sigmoid", behind)) if why == "read in float" else y
    model = quantised(g, y, optimize="accuracy", exclude=["conv1"] if why == "float weight" else [])
    before = [node.name for node in model.graph]
    assert not codes_to_codes(model)
    assert [node.name for node in model.graph] == before
