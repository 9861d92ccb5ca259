"""From data to an INT8 model where Convs are sites: calibrate, solve, plan, rewrite."""

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import calib8
from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.provenance import PLAN
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.design import Recipe
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.solve import ROWS, solve
from calib8.testing import outputs_of

NAMES = ["wide", "depthwise", "point", "grouped", "head"]


def images(seed: int, count: int = 12) -> dict[str, np.ndarray]:
    """Integers, which 11 bits hold. Channel 1 is 60 times the others, channel 2 far from zero."""
    x = np.random.default_rng(seed).normal(size=(count, 4, 9, 9)) * 4
    x[:, 1] *= 60
    x[:, 2] += 120
    return {"image": np.rint(x).astype(np.float32)}


def convnet() -> ir.Model:
    """Weights undo the size of channel 1, so that every channel matters to the output."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 4, 9, 9)
    size = np.array([1, 60, 1, 1]).reshape(1, 4, 1, 1)
    first = g.constant("wide.w", g.random.normal(size=(8, 4, 3, 3)) / 6 / size)
    x = g.op("Relu", g.op("Conv", image, first, g.weight("wide.b", 8), name="wide"))
    x = g.op("Conv", x, g.weight("depthwise.w", 8, 1, 3, 3), name="depthwise", group=8, pads=[1, 1, 1, 1])
    x = g.op("Conv", g.op("Relu", x), g.weight("point.w", 16, 8, 1, 1), name="point", strides=[2, 2])
    x = g.op("Conv", g.op("Relu", x), g.weight("grouped.w", 6, 8, 2, 2), name="grouped", group=2)
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    return prepare(g.model(y=g.op("Gemm", x, g.weight("head.w", 6, 3), name="head")))


def quantised(model: ir.Model, **options: object) -> tuple[ir.Model, QuantPlan]:
    data = dataset_for(model, Batches([images(0, 100)]), Quiet())
    found = one_pass.calibrate(model, data, Calibrate(), origin_of("m", "d", Calibrate()), Quiet(), sample=ROWS)
    case = Case(model, found.ranges, found.statistics, Int8(min_sqnr_db=0, **options))
    return case.apply(case.solutions(Quiet()))


def error(reference: ir.Model, model: ir.Model) -> float:
    """Share of the output's variance that is lost on images that nobody has seen."""
    expected, got = (outputs_of(m, images(1, 50))["y"].astype(np.float64) for m in (reference, model))
    return float(np.square(got - expected).sum() / np.square(expected - expected.mean(axis=0)).sum())


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
def test_convs_are_solved(remainder: str) -> None:
    reference = convnet()
    model, plan = quantised(reference, remainder=remainder)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert plan.nodes("int8") == NAMES
    assert all(op.recipe for op in plan.ops)
    assert all(op.sqnr_db > 14 for op in plan.ops)
    plain, _ = quantised(reference, remainder=remainder, treatment="plain")
    assert error(reference, model) < error(reference, plain) / 5
    assert error(reference, model) < 0.01


def test_every_conv_takes_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last recipe wins wherever it is possible: no shift where zeros are padded, no split of groups."""
    recipes = (Recipe(smooth=0.4), Recipe(smooth=0.4, shift=True), Recipe(smooth=0.4, shift=True, split=8.0))
    monkeypatch.setattr("calib8.quantization.solve.cheapest", lambda trials: trials[-1])
    monkeypatch.setattr("calib8.quantization.apply.solve", partial(solve, recipes=recipes))
    reference = convnet()
    model, plan = quantised(reference, remainder="fp32")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    got = {op.node: (op.recipe, op.extra_columns > 0) for op in plan.ops}
    all_of_it, centred = ("smooth 0.4 + shift + split 800%", True), ("smooth 0.4 + shift", False)
    assert got == {
        "wide": all_of_it,
        "depthwise": ("smooth 0.4", False),
        "point": all_of_it,
        "grouped": centred,
        "head": all_of_it,
    }
    assert error(reference, model) < 0.01


def test_the_mean_output_is_kept() -> None:
    """The bias takes the mean error of the patches that were sampled, here all of them."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 4, 9, 9)
    y = g.op("Conv", image, g.weight("w", 6, 2, 3, 3), name="only", group=2, strides=[3, 3])
    reference = prepare(g.model(y=y))
    model, plan = quantised(reference, remainder="fp32")
    assert plan.nodes("int8") == ["only"]
    expected, got = (outputs_of(m, images(0, 100))["y"] for m in (reference, model))
    lost = np.abs((got - expected).mean(axis=(0, 2, 3)))
    assert np.abs(got - expected).max() > 0.01
    assert lost.max() < 1e-4


@pytest.mark.parametrize("other", ["Sigmoid", "conv", "output"])
def test_a_tensor_of_two_names(other: str) -> None:
    """Transposed there and back for another reader, it has that one's name in the model that is quantised."""
    g = GraphBuilder()
    x = g.op("Relu", g.op("Conv", g.input("image", ir.DataType.FLOAT, "batch", 4, 9, 9), g.weight("w", 4, 4, 1, 1)))
    y = g.op("Conv", x, g.weight("wide.w", 4, 4, 3, 3), name="wide")
    same = g.op("Transpose", g.op("Transpose", x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2), name="same")
    outputs = {"y": y, "same" if other == "output" else "z": same}
    if other != "output":
        operands = [g.weight("point.w", 4, 4, 1, 1)] if other == "conv" else []
        outputs["z"] = g.op("Conv" if operands else other, same, *operands)
    model = prepare(g.model(**outputs))
    ranges = calib8.calibrate(model, [images(0)])
    name = "same" if other == "output" else "same_out"
    assert ranges.tensors[name] == ranges.tensors["Relu_1_out"]
    config = Int8(remainder="fp32", min_sqnr_db=0, max_damage=1)
    quantised = calib8.quantize(model, ranges, config, data=[images(0)])
    plan = QuantPlan.model_validate_json(quantised.metadata_props[PLAN])
    wide = next(op for op in plan.ops if op.node == "wide")
    assert (wide.input, wide.treatment) == (name, "int8")
    assert "on held-out rows" in wide.reason, "rows of its window were sampled"
    assert calib8.plan(model, ranges, config).ops[1].input == name, "what it would be by ranges alone"
    exact, got = (outputs_of(one, images(0))["y"] for one in (model, quantised))
    assert np.abs(exact - got).max() < 0.05 * np.abs(exact).max()
