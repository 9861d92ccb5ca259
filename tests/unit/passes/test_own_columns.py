"""Channels computed a second time by columns of their own."""

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.passes.own_columns import own_columns
from calib8.passes.prepare import prepare
from calib8.passes.qdq_nodes import Constants
from calib8.quantization import apply
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.design import Recipe
from calib8.quantization.solve import ROWS, solve
from calib8.testing import outputs_of, tiny_encoder, token_feeds

FLOAT = ir.DataType.FLOAT
X = {"x": np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)}


def feed_forward(kind: str = "gelu") -> tuple[ir.Model, ir.Value]:
    """x -> MatMul -> Add -> what ``kind`` says, 6 channels wide; the model and that value."""
    g = GraphBuilder(opset=20)
    x = g.input("x", FLOAT, "batch", "sequence", 4)
    weight = g.weight("w", 4, 6)
    if kind == "codes":
        weight = g.op(
            "DequantizeLinear", g.constant("c", np.ones((4, 6)), np.int8), g.constant("s", np.ones(6)), axis=1
        )
    if kind.startswith("gemm"):
        x, transposed = g.op("Reshape", x, g.constant("rows", [-1, 4], np.int64)), int(kind == "gemm transposed")
        weight = g.weight("w", 6, 4) if transposed else weight
        up = g.op("Gemm", x, weight, g.constant("b", np.arange(6)), transB=transposed, name="up")
    else:
        bias = g.constant("b", np.arange(6).reshape((1, 1, 6) if kind == "bias of three axes" else 6))
        up = g.op("Add", bias, g.op("MatMul", x, weight, name="up"), name="sum")
    if kind == "erf":
        erf = g.op("Erf", g.op("Div", up, g.constant("root", np.sqrt(2))))
        value = g.op("Mul", g.op("Mul", up, g.op("Add", erf, g.constant("one", 1))), g.constant("half", 0.5))
    elif kind == "tanh":
        cubed = g.op("Mul", g.op("Pow", up, g.constant("three", 3)), g.constant("k", 0.044715))
        value = g.op("Mul", up, g.op("Tanh", g.op("Add", up, cubed)))
    elif kind == "gated":
        value = g.op("Mul", up, g.op("Sigmoid", g.op("MatMul", x, g.weight("gate", 4, 6))))
    elif kind == "norm":
        value = g.op("LayerNormalization", up, g.constant("gamma", np.ones(6)))
    elif kind == "table":
        value = g.op("Add", up, g.weight("rows", 5, 6))
    else:
        value = g.op("Gelu", up, approximate="tanh")
    outputs = {"sum": up} if kind == "output" else {}
    model = prepare(g.model(y=g.op("Neg", value), **outputs))
    return model, next(node for node in model.graph if node.op_type == "Neg").inputs[0]


@pytest.mark.parametrize("kind", ["gelu", "erf", "tanh", "bias of three axes", "gemm", "gemm transposed"])
def test_the_columns_give_the_channels(kind: str) -> None:
    model, value = feed_forward(kind)
    before = [node.name for node in model.graph]
    columns = own_columns(Constants(model.graph), value, 6, np.array([1, 4]))
    assert columns is not None
    assert columns.shape[-1] == 2
    model.graph.outputs.append(columns)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    got = outputs_of(model, X)
    np.testing.assert_allclose(got[columns.name], -got["y"][..., [1, 4]], rtol=1e-6, atol=1e-7)
    assert set(before) < {node.name for node in model.graph}  # the original is untouched
    weight = model.graph.initializers["w_columns"].const_value.numpy()
    original = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(weight, original[[1, 4]] if "transposed" in kind else original[:, [1, 4]])
    assert model.graph.initializers["b_columns"].const_value.numpy().ravel().tolist() == [1, 4]


@pytest.mark.parametrize("kind", ["codes", "gated", "norm", "table", "output"])
def test_channels_that_others_decide_too_have_none(kind: str) -> None:
    model, value = feed_forward(kind)
    assert own_columns(Constants(model.graph), value, 6, np.array([1, 4])) is None
    assert not any(name.endswith("_columns") for name in model.graph.initializers)


def test_an_input_has_none() -> None:
    model, _ = feed_forward()
    assert own_columns(Constants(model.graph), model.graph.inputs[0], 4, np.array([1])) is None


def test_a_side_branch_of_an_encoder_and_its_switch(notes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to the same numbers: the model with all in INT8, and the model that switches; and float behind it."""
    monkeypatch.setattr(apply, "solve", partial(solve, recipes=(Recipe(side=8), Recipe())))
    model, feeds = prepare(tiny_encoder(width=64, heads=4)), token_feeds(*([3, 9, 13] * 8))
    data = dataset_for(model, Batches([feeds]), notes)
    found = one_pass.calibrate(model, data, Calibrate(), origin_of("m", "d", Calibrate()), notes, sample=ROWS)
    config = Int8(remainder="fp32", embedding=False, min_sqnr_db=0)
    case = Case(model, found.ranges, found.statistics, config)
    solutions = case.solutions(notes)
    assert len(solutions["down"].quantised.conditioning.side) == 8
    quantised, plan = case.apply(solutions)
    onnx.checker.check_model(ir.to_proto(quantised), full_check=True)
    kinds = [node.op_type for node in quantised.graph]
    assert (kinds.count("Erf"), kinds.count("QuantizeLinear")) == (2, 4)
    expected = outputs_of(quantised, feeds)["last_hidden_state"]
    with case.switchboard(set(plan.nodes("int8")), solutions) as board:
        floats = board.run(feeds)["last_hidden_state"]
        board.int8 = plan.nodes("int8")
        switched = board.run(feeds)["last_hidden_state"]
    original = outputs_of(model, feeds)["last_hidden_state"]
    np.testing.assert_allclose(floats, original, rtol=0, atol=1e-4)
    assert np.abs(switched - original).max() > 1e-3
    # the same codes, but for a few that lie between two
    assert np.quantile(np.abs(switched - expected), 0.99) < 1e-2 < np.abs(original).max()
