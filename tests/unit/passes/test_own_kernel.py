"""Activations behind INT8 convolutions that go on in float: FP32 between two Casts, and nothing else changed."""

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.passes.own_kernel import own_kernel
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
FEEDS = {"x": np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)}


def quantised(kind: str, then: str, exclude: tuple[str, ...] = ()) -> ir.Model:
    """Conv ``conv``, what is of ``kind``, and what reads that: an average, Conv ``last``, both or a sum with x."""
    g = GraphBuilder(18)
    x = g.op("Relu", g.input("x", FLOAT, "batch", 4, 8, 8))
    conv = g.op("Conv", x, g.weight("w", 4, 4, 3, 3), name="conv", pads=[1] * 4)
    three, none, six = (g.constant(f"c{number}", np.float32(number)) for number in (3, 0, 6))
    y = {
        "swish": lambda: g.op("Div", g.op("Mul", conv, g.op("Clip", g.op("Add", conv, three), none, six)), six),
        "SiLU": lambda: g.op("Mul", conv, g.op("Sigmoid", conv)),
        "Relu": lambda: g.op("Relu", conv),
    }.get(kind, lambda: g.op(kind, conv))()
    last = g.op("Conv", y, g.weight("last.w", 4, 4, 1, 1), name="last") if then in ("last", "both") else y
    y = {"both": lambda: g.op("Add", last, y), "sum": lambda: g.op("Add", y, x)}.get(then, lambda: last)()
    model = prepare(g.model(y=g.op("GlobalAveragePool", y)))
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize="accuracy", exclude=exclude)
    return calib8.quantize(model, calib8.calibrate(model, [FEEDS]), config)


@pytest.mark.parametrize("then", ["average", "both"])
@pytest.mark.parametrize("kind", ["swish", "LeakyRelu", "Sigmoid", "HardSwish"])
def test_it_computes_in_fp32_between_two_casts(kind: str, then: str) -> None:
    model = quantised(kind, then)
    before = outputs_of(model, FEEDS)["y"]
    assert own_kernel(model)
    conv = next(node for node in model.graph if node.name == "conv")
    assert conv.outputs[0].dtype == HALF
    (wide,) = {reader for reader, _ in conv.outputs[0].uses()}
    assert (wide.op_type, wide.outputs[0].dtype) == ("Cast", FLOAT)
    average = next(node for node in model.graph if node.op_type == "GlobalAveragePool")
    assert average.inputs[0].dtype == HALF
    np.testing.assert_allclose(outputs_of(model, FEEDS)["y"], before, rtol=0, atol=2e-3 * np.abs(before).max())
    assert not own_kernel(model)


@pytest.mark.parametrize(
    ("kind", "then"),
    [("swish", "last"), ("swish", "sum"), ("SiLU", "average"), ("Relu", "average"), ("Relu", "both")],
    ids=["codes", "joined by a sum", "SiLU", "ReLU", "ReLU, codes and float"],
)
def test_what_tensorrt_has_kernels_for_stays(kind: str, then: str) -> None:
    model = quantised(kind, then)
    before = [node.name for node in model.graph]
    assert not own_kernel(model)
    assert [node.name for node in model.graph] == before


def test_a_convolution_in_float_keeps_its_activation_in_its_kernel() -> None:
    assert not own_kernel(quantised("swish", "both", exclude=("conv",)))
