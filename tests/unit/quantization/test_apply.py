import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from shell import Shell

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.one_pass import Calibration
from calib8.calibration.origin import origin_of
from calib8.calibration.ranges import Ranges
from calib8.data.sources import Batches
from calib8.errors import ConfigError, ModelError, RangesError
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.graph.io import SOURCE_SHA256, save, serialized
from calib8.passes import quantize_embedding
from calib8.passes.prepare import prepare
from calib8.provenance import CALIBRATION, MADE_BY, PLAN
from calib8.quantization.apply import apply_plan, quantize_by_ranges, repeats
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.design import Recipe
from calib8.quantization.policy import make_plan
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.solve import ROWS, solve
from calib8.testing import outputs_of, tiny_encoder, token_feeds

FEEDS = token_feeds(9, 5, 7, 3)


@pytest.fixture
def ranges(encoder: ir.Model, notes) -> Ranges:
    return calibrated(encoder, FEEDS, notes, sample=0).ranges


def calibrated(model: ir.Model, feeds, notes, sample: int = ROWS) -> Calibration:
    data = dataset_for(model, Batches(feeds), notes)
    origin = origin_of("model", data.fingerprint, Calibrate())
    return one_pass.calibrate(model, data, Calibrate(), origin, notes, sample=sample)


def quantized(model: ir.Model, found: Calibration, notes, **options: object) -> tuple[ir.Model, QuantPlan]:
    case = Case(model, found.ranges, found.statistics, Int8(**options))
    return case.apply(case.solutions(notes))


def applied(model: ir.Model, ranges: Ranges, **options: object) -> ir.Model:
    config = Int8(min_sqnr_db=0, **options)
    return apply_plan(model, ranges, make_plan(model, ranges, config), config)


def types(model: ir.Model) -> set[ir.DataType | None]:
    return {value.dtype for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
@pytest.mark.parametrize("embedding", [False, True])
def test_a_valid_close_model_and_an_untouched_original(
    encoder: ir.Model, ranges: Ranges, remainder: str, embedding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize_embedding, "MINIMUM_BYTES", 1)
    before = serialized(encoder)
    model = applied(encoder, ranges, remainder=remainder, embedding=embedding)
    assert serialized(encoder) == before
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert (ir.DataType.FLOAT16 in types(model)) == (remainder == "fp16")
    assert ("words_quantized" in model.graph.initializers) == embedding
    expected, got = (outputs_of(m, FEEDS)["last_hidden_state"] for m in (encoder, model))
    assert 0 < np.abs(got - expected).max() < 0.15


def test_left_out_ops_stay_in_float(encoder: ir.Model, ranges: Ranges) -> None:
    model = applied(encoder, ranges, exclude=("down",), remainder="fp32")
    down = next(node for node in model.graph if node.name == "down")
    assert down.inputs[1].name == "down.weight"
    up = next(node for node in model.graph if node.name == "up")
    assert up.inputs[1].producer().op_type == "DequantizeLinear"


def test_the_model_tells_how_it_was_made(encoder: ir.Model, ranges: Ranges) -> None:
    model = applied(encoder, ranges, exclude=("o",))
    plan = QuantPlan.model_validate_json(model.metadata_props[PLAN])
    assert plan.nodes("float") == ["o"]
    assert json.loads(model.metadata_props[CALIBRATION])["model_sha256"] == "model"
    assert json.loads(model.metadata_props[MADE_BY])["int8"]["exclude"] == ["o"]
    assert PLAN not in encoder.metadata_props


def test_what_was_quantised_is_refused(calib8: Shell, encoder: ir.Model, ranges: Ranges, tmp_path: Path) -> None:
    """Also where ops are left in float, which could be quantised."""
    model = applied(encoder, ranges, exclude=("down",))
    with pytest.raises(ModelError, match="quantised by calib8 already"):
        quantize_by_ranges(model, ranges, Int8())
    save(model, tmp_path / "int8.onnx")
    np.savez(tmp_path / "data.npz", **token_feeds(3, 5))
    code, _, err = calib8("calibrate", tmp_path / "int8.onnx", "--data", tmp_path / "data.npz", "-o", tmp_path / "r")
    assert code == 2
    assert "the model was quantised by calib8 already: it carries the plan. Expected its FP32 original" in err
    assert not (tmp_path / "r").exists()


def test_nothing_left_to_quantise(encoder: ir.Model, ranges: Ranges) -> None:
    told = (
        "the plan leaves every op in float: there is nothing to quantise. The first op's reason: left out by name. "
        "Lower --min-sqnr, change --include/--exclude, or calibrate on other data."
    )
    with pytest.raises(ConfigError, match=re.escape(told)):
        applied(encoder, ranges, exclude=("*",))


def test_the_same_input_gives_the_same_bytes(encoder: ir.Model, ranges: Ranges) -> None:
    assert serialized(applied(encoder, ranges)) == serialized(applied(encoder, ranges))


MANY = token_feeds(*range(3, 13), seed=1)  # 75 tokens


def outlier_encoder() -> ir.Model:
    """A tiny encoder in whose FFN a channel is 200 times the others, undone behind it: awful for one scale."""
    model = tiny_encoder()
    up, bias, down = (model.graph.initializers[name] for name in ("up.weight", "up.bias", "down.weight"))
    for value, index in ((up, (slice(None), 3)), (bias, 3), (down, (3, slice(None)))):
        array = value.const_value.numpy().copy()
        array[index] *= 200 if value is not down else 1 / 200
        value.const_value = ir.tensor(array, name=value.name)
    return prepare(model)


def solved(model: ir.Model, notes, **options: object) -> tuple[ir.Model, QuantPlan]:
    found = calibrated(model, MANY, notes)
    return quantized(model, found, notes, **options)


def error(reference: ir.Model, model: ir.Model) -> float:
    expected, got = (outputs_of(m, MANY)["last_hidden_state"][MANY["attention_mask"] != 0] for m in (reference, model))
    return float(np.square(got - expected).sum() / np.square(expected).sum())


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
def test_outliers_are_conditioned(notes, remainder: str) -> None:
    model = outlier_encoder()
    before = serialized(model)
    auto, plan = solved(model, notes, remainder=remainder)
    plain, _ = solved(model, notes, remainder=remainder, treatment="plain", min_sqnr_db=0)
    assert serialized(model) == before
    onnx.checker.check_model(ir.to_proto(auto), full_check=True)
    assert plan.nodes("float") == []
    assert all(op.recipe for op in plan.ops)
    assert "smooth" in next(op.recipe for op in plan.ops if op.node == "down")
    assert error(model, auto) < error(model, plain) / 10
    assert error(model, auto) < 1e-3
    assert [step for step in notes.steps if step[0] == "quantize"] == [("quantize", n, 4) for n in range(5)]  # sites


def test_plain_treatment_conditions_nothing(notes) -> None:
    model, plan = solved(outlier_encoder(), notes, treatment="plain")
    assert plan.nodes("float") == ["down"]
    assert {op.recipe for op in plan.ops} == {None}
    assert not any(value.name.endswith("_multiplier") for value in model.graph.initializers.values())


def test_names_left_out_are_no_part_of_a_site(notes) -> None:
    model, plan = solved(outlier_encoder(), notes, exclude=("k", "up"), remainder="fp32")
    assert plan.nodes("float") == ["k", "up"]
    inputs = {node.name: node.inputs[0] for node in model.graph}
    assert inputs["q"] is inputs["v"]
    assert inputs["k"].name == inputs["up"].name.replace("norm1", "norm0") == "norm0_out"
    assert error(outlier_encoder(), model) < 1e-3


def test_too_few_rows_are_not_solved_by(notes) -> None:
    found = calibrated(outlier_encoder(), FEEDS, notes)  # 24 tokens
    _, plan = quantized(outlier_encoder(), found, notes)
    assert {op.recipe for op in plan.ops} == {None}


def test_a_scaled_gemm_beside_a_site(notes) -> None:
    """Both read one tensor; only the MatMul is conditioned."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    a = g.op("MatMul", x, g.weight("a.weight", 8, 4), name="a")
    b = g.op("Gemm", x, g.weight("b.weight", 8, 4), name="b", alpha=2.0)
    reference = prepare(g.model(y=a, z=b))
    rows = {"x": (np.random.default_rng(0).normal(size=(100, 8)) + 2).astype(np.float32)}
    found = calibrated(reference, rows, notes)
    model, plan = quantized(reference, found, notes, remainder="fp32")
    assert [(op.node, op.treatment, bool(op.recipe)) for op in plan.ops] == [("a", "int8", True), ("b", "int8", False)]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    expected, got = outputs_of(reference, rows), outputs_of(model, rows)
    for name in "yz":
        assert 0 < np.abs(got[name] - expected[name]).max() < 0.2


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_sites_in_a_row(notes, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads what the one before it computes, correction included; a scaled Gemm has a grid by ranges alone."""
    monkeypatch.setattr("calib8.quantization.apply.solve", partial(solve, recipes=(Recipe(shift=True),)))
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    a = g.op("MatMul", x, g.weight("a.weight", 8, 8), name="a")
    b = g.op("MatMul", a, g.weight("b.weight", 8, 8), name="b")
    reference = prepare(g.model(y=g.op("Gemm", b, g.weight("c.weight", 8, 4), name="c", alpha=alpha)))
    centre = np.array([20, 0] * 4)
    rows = {"x": (np.random.default_rng(0).normal(size=(100, 8)) + centre).astype(np.float32)}
    found = calibrated(reference, rows, notes)
    model, plan = quantized(reference, found, notes, remainder="fp32")
    recipes = [op.recipe and op.recipe.partition(" + reach")[0] for op in plan.ops]
    assert recipes == ["shift", "shift", "shift" if alpha == 1 else None]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    expected, got = outputs_of(reference, rows)["y"], outputs_of(model, rows)["y"]
    assert 0 < np.square(got - expected).sum() < 1e-3 * np.square(expected).sum()


def test_a_matmul_on_four_axes(notes) -> None:
    """As in windowed vision models: its rows run over all axes but the last, and may be anything beyond FP16."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 3, 4, 8)
    big = g.op("Mul", x, g.constant("big", [1, 1, 1, 1, 1, 1, 1, 1e5]))
    small = g.constant("w", np.random.default_rng(1).normal(size=(8, 5)) * np.array([1] * 7 + [1e-5])[:, None])
    reference = prepare(g.model(y=g.op("MatMul", big, small, name="op")))
    rows = {"x": np.random.default_rng(0).normal(size=(20, 3, 4, 8)).astype(np.float32)}
    found = calibrated(reference, rows, notes)
    assert found.statistics["Mul_0_out"].sample().rows().shape == (240, 8)
    model, plan = quantized(reference, found, notes, remainder="fp32")
    assert plan.nodes("int8") == ["op"]
    expected, got = outputs_of(reference, rows)["y"], outputs_of(model, rows)["y"]
    assert np.square(got - expected).sum() < 1e-3 * np.square(expected).sum()


def test_a_broken_weight_is_named(notes, encoder: ir.Model) -> None:
    found = calibrated(encoder, MANY, notes)
    bad = encoder.graph.initializers["down.weight"]
    array = bad.const_value.numpy().copy()
    array[0, 0] = np.nan
    bad.const_value = ir.tensor(array, name="down.weight")
    with pytest.raises(ModelError, match="the weight 'down.weight' holds NaN or infinity"):
        quantized(encoder, found, notes)


def test_a_model_in_fp64_is_refused_before_anything_is_run(notes) -> None:
    g = GraphBuilder()
    x = g.op("Cast", g.input("x", ir.DataType.FLOAT, "batch", 8), to=int(ir.DataType.DOUBLE))
    weight = g.constant("w", np.random.default_rng(0).normal(size=(8, 4)), np.float64)
    model = prepare(g.model(y=g.op("MatMul", x, weight, name="op")))
    with pytest.raises(ModelError, match="node 'op' computes in FP64; expected an FP32 model"):
        calibrated(model, {"x": np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)}, notes)
    assert not notes.steps


def test_ranges_of_another_model_are_refused_before_the_work(notes, encoder: ir.Model) -> None:
    found = calibrated(encoder, MANY, notes)
    encoder.metadata_props[SOURCE_SHA256] = "another"
    with pytest.raises(RangesError, match="made from another model"):
        quantized(encoder, found, notes)
    assert "quantize" not in [step[0] for step in notes.steps]


def test_solving_repeats_to_the_byte(notes) -> None:
    first, second = (solved(outlier_encoder(), notes)[0] for _ in range(2))
    assert serialized(first) == serialized(second)


def test_what_repeats(notes, encoder: ir.Model) -> None:
    found = calibrated(encoder, MANY, notes)
    model, _ = quantized(encoder, found, notes)
    origin = found.ranges.origin
    assert repeats(model, origin, Int8())
    assert repeats(ir.from_proto(ir.to_proto(model)), origin, Int8())
    for changed in (Int8(treatment="plain"), Int8(embedding=False), Int8(exclude=("o",)), Int8(min_sqnr_db=13)):
        assert not repeats(model, origin, changed)
    assert not repeats(model, origin.model_copy(update={"data_sha256": "other"}), Int8())
    assert not repeats(encoder, origin, Int8())


def test_embedding_tables_are_int8_by_default(
    monkeypatch: pytest.MonkeyPatch, encoder: ir.Model, ranges: Ranges
) -> None:
    monkeypatch.setattr(quantize_embedding, "MINIMUM_BYTES", 1)
    assert "words_quantized" in applied(encoder, ranges).graph.initializers
    assert "words_quantized" not in applied(encoder, ranges, embedding=False).graph.initializers
