"""Grouped convolutions without an INT8 kernel: their weights as constants, and the numbers that come of it."""

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.passes.float_grouped import float_grouped
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
FEEDS = {"x": np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)}


def quantised(kind: str, *, group: int = 4, codes: bool = False) -> ir.Model:
    """y = average(last(kind(grouped(x)))), or without ``last``."""
    g = GraphBuilder(18)
    x = g.op("Relu", g.input("x", FLOAT, "batch", 4, 8, 8))
    conv = g.op("Conv", x, g.weight("w", 4, 4 // group, 3, 3), name="grouped", pads=[1] * 4, group=group)
    y = {
        "none": lambda: conv,
        "Relu": lambda: g.op("Relu", conv),
        "HardSwish": lambda: g.op("HardSwish", conv),
        "Add": lambda: g.op("Relu", g.op("Add", conv, x)),
    }[kind]()
    y = g.op("Conv", y, g.weight("last.w", 4, 4, 1, 1), name="last") if codes else y
    model = prepare(g.model(y=g.op("GlobalAveragePool", y)))
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize="accuracy")
    return calib8.quantize(model, calib8.calibrate(model, [FEEDS]), config)


def weight_of(model: ir.Model) -> ir.Value | None:
    return next(node for node in model.graph if node.name == "grouped").inputs[1]


WITHOUT_KERNEL = [("none", 4, False), ("Relu", 4, False), ("Relu", 2, False), ("HardSwish", 4, True), ("Add", 4, True)]


@pytest.mark.parametrize(("kind", "group", "codes"), WITHOUT_KERNEL)
def test_the_weight_is_what_its_codes_stand_for(kind: str, group: int, codes: bool) -> None:
    model = quantised(kind, group=group, codes=codes)
    before = outputs_of(model, FEEDS)["y"]
    dequantise = weight_of(model).producer().inputs[0].producer()
    found, scale = (value.const_value.numpy() for value in dequantise.inputs[:2])
    assert float_grouped(model)
    weight = weight_of(model)
    assert weight.dtype == HALF
    exact = found.astype(np.float32) * scale.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight.const_value.numpy(), exact.astype(np.float16))
    np.testing.assert_allclose(outputs_of(model, FEEDS)["y"], before, rtol=0, atol=2e-3 * np.abs(before).max())
    assert dequantise not in list(model.graph)
    assert not float_grouped(model)


@pytest.mark.parametrize(("kind", "group"), [("none", 4), ("Relu", 4), ("Relu", 2)])
def test_what_gives_codes_keeps_its_own(kind: str, group: int) -> None:
    model = quantised(kind, group=group, codes=True)
    assert not float_grouped(model)
    assert weight_of(model).const_value is None


def test_one_group_has_kernels_for_float() -> None:
    assert not float_grouped(quantised("Relu", group=1))


def test_weights_that_q_makes_codes_of_along_the_axis_it_names() -> None:
    """As other exporters leave them: float, with Q and DQ, in a model that computes in FP32."""
    g = GraphBuilder(18)
    x = g.input("x", FLOAT, "batch", 4, 8, 8)
    weight = np.array([[-1.0, 0.26], [2.0, 0.5], [0.1, 30.0], [0.0, 127.0]], np.float32).reshape(4, 1, 1, 2)
    scale, zero = g.constant("scale", np.float32([0.5, 0.5, 1.0, 1.0])), g.constant("zero", np.zeros(4, np.int8))
    codes = g.op("QuantizeLinear", g.constant("w", weight), scale, zero, axis=0)
    dequantised = g.op("DequantizeLinear", codes, scale, zero, axis=0)
    model = g.model(y=g.op("Conv", x, dequantised, name="grouped", group=4))
    assert float_grouped(model)
    found = weight_of(model).const_value.numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(4, 2), [[-1.0, 0.5], [2.0, 0.5], [0.0, 30.0], [0.0, 127.0]])
    assert [node.op_type for node in model.graph] == ["Conv"]
