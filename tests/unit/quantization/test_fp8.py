"""FP8 (E4M3): its numbers worked out by hand, and the same workflow as INT8's."""

from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_models import OPS, feeds, planted

import calib8
from calib8.calibration.ranges import TensorRange
from calib8.errors import ConfigError, ModelError, SetupError
from calib8.graph.builder import GraphBuilder
from calib8.graph.codes import CODES, precision_of
from calib8.graph.io import SOURCE_SHA256
from calib8.graph.weighted import weighted_ops
from calib8.integrations.onnxruntime import open_session
from calib8.numerics import dequantize, quantize, quantize_weight, scale_of
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.precision import FP8, GRIDS, INT8, Precision
from calib8.quantization.case import case_of
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.solved import load, save
from calib8.runtime import choice
from calib8.runtime.canary import kinds_of
from calib8.runtime.choice import CpuChoice, Measured, by_rule, candidates, remember, remembered
from calib8.runtime.cpu import open_cpu
from calib8.runtime.ort import OrtRuntime
from calib8.serving.triton.served import served_of
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

E4M3 = ml_dtypes.float8_e4m3fn
#: All 254 codes that are numbers.
NUMBERS = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8).view(E4M3)


def test_rounding_is_to_the_nearest_and_half_to_even_and_saturates() -> None:
    # 16, 18, 20 are neighbours (steps of 2 between 16 and 32); mantissas of 16 and 20 are even. The least step is 2^-9.
    given = [1, 17, 17.1, 19, 448, 463, 1e9, -1e9, 2**-9, 2**-10, 3 * 2**-10, -0.01]
    codes = quantize(np.float32(given), 1.0, FP8)
    assert codes.dtype == E4M3
    # -0.01 is -5.12 steps of 2^-9, so -5 of them
    assert codes.astype(np.float64).tolist() == [
        *(1, 16, 18, 20, 448, 448, 448, -448, 2**-9, 0, 2**-8, -5 * 2**-9),
    ]
    assert codes[[0, 1, 4, 8]].view(np.uint8).tolist() == [0x38, 0x58, 0x7E, 0x01]  # exponent's bias 7: 1 is 7 << 3


def test_scale_is_amax_over_448() -> None:
    assert scale_of(np.array([896.0, 0.0]), FP8).tolist() == [2, np.float32(1 / 448)]
    assert dequantize(quantize(np.float32([896, 3]), 2.0, FP8), 2.0).tolist() == [896, 3]


@pytest.mark.parametrize("scale", [1.0, 0.037, 3e-5])
def test_every_number_is_itself(scale: float) -> None:
    assert quantize(dequantize(NUMBERS, scale), scale, FP8).view(np.uint8).tolist() == NUMBERS.view(np.uint8).tolist()


@given(st.floats(-448, 448, width=32))
def test_error_is_at_most_half_a_step(x: float) -> None:
    error = abs(float(quantize(np.float32([x]), 1.0, FP8)[0]) - x)
    assert error <= FP8.step(abs(x)) / 2


def test_steps_follow_the_magnitude() -> None:
    assert [FP8.step(magnitude) for magnitude in (448, 17, 1, 2**-6, 2**-8, 0)] == [32, 2, 1 / 8, *[2**-9] * 3]
    assert INT8.step(34) == 1


def test_weights_have_a_scale_per_channel() -> None:
    codes, scale = quantize_weight(np.float32([[448, -896], [1, 3]]), 1, FP8)
    assert scale.tolist() == [1, 2]
    assert codes.astype(np.float32).tolist() == [[448, -448], [1, 1.5]]


def test_outliers_cost_a_float_grid_nothing_until_values_drown() -> None:
    def left(amax: float) -> float:
        seen = TensorRange(amax=amax, minimum=-amax, maximum=amax, typical=1.0)
        return seen.typical_sqnr_db(FP8)

    # a typical 1 has the step 1/8 on scale 1: 20 log10(8 sqrt(12)); the same down to 2^-6 of the grid, amax 64 x 448
    assert (left(448), left(448 * 64)) == pytest.approx((28.85, 28.85), abs=0.005)
    assert left(448 * 128) == pytest.approx(28.85 - 6.02, abs=0.005)  # below it the step is 2^-9 of the scale


def in_fp8(model: ir.Model, amax: float = 4.0) -> ir.Model:
    prepared = prepare(model)
    ops = [op for op in weighted_ops(prepared) if op.kind != "Conv"]
    return insert_qdq(prepared, ops, {op.activation.name or "": amax for op in ops}, FP8)


@pytest.mark.parametrize("make", [tiny_mlp, tiny_encoder])
def test_the_model_is_what_onnx_calls_fp8(make) -> None:
    model = in_fp8(make())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.opset_imports[""] == 19
    pairs = [node for node in model.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.inputs[2].dtype for node in pairs} == {ir.DataType.FLOAT8E4M3FN}
    assert {node.inputs[1].dtype for node in pairs} == {ir.DataType.FLOAT}
    assert precision_of(model) == "fp8"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_onnx_runtime_multiplies_what_the_codes_stand_for(transposed: bool, relu: bool) -> None:
    """Behind a Relu, too: ONNX Runtime would take it away, as if Q clamped at 0."""
    g = GraphBuilder()
    x, weight = g.input("x", ir.DataType.FLOAT, "batch", 64), g.weight("w", *((8, 64) if transposed else (64, 8)))
    kind = {"transB": 1} if transposed else {}
    read = g.op("Relu", x) if relu else x
    model = g.model(y=g.op("Gemm" if transposed else "MatMul", read, weight, **kind))
    weights = weight.const_value.numpy()
    rows = np.random.default_rng(0).normal(0, 3, (500, 64)).astype(np.float32)  # some beyond amax
    scale = scale_of(4.0, FP8)
    codes, scales = quantize_weight(weights, 0 if transposed else 1, FP8)
    values = codes.astype(np.float64) * (scales[:, None] if transposed else scales)
    seen = np.maximum(rows, 0) if relu else rows
    expected = dequantize(quantize(seen, scale, FP8), scale).astype(np.float64) @ (values.T if transposed else values)
    with OrtRuntime(in_fp8(model)) as runtime:
        np.testing.assert_allclose(runtime.run({"x": rows})["y"], expected, rtol=1e-5, atol=1e-5)


def test_the_cpu_computes_it_in_onnx_runtime_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: object())  # OpenVINO is there
    model = in_fp8(tiny_mlp())
    assert kinds_of(model) == ()
    assert (by_rule(model, "auto", 2).runtime, by_rule(model, "auto", 2).form) == ("onnxruntime", "fp32")
    assert {one.runtime for one in candidates(model)} == {"onnxruntime"}
    with pytest.raises(SetupError, match=r"OpenVINO is not used for FP8: .*Name no --runtime"):
        by_rule(model, "openvino", 2)
    with open_cpu(model) as runtime:
        assert runtime.description.endswith("on CPU, FP8 codes multiplied in FP32, slowly")


def test_what_tune_found_for_int8_is_not_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model in memory keeps the hash of the float model that it was made of, whatever it was quantised to."""
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path))
    fp8, int8 = in_fp8(tiny_mlp()), prepare(tiny_mlp())
    insert_qdq(int8, weighted_ops(int8), {op.activation.name or "": 4.0 for op in weighted_ops(int8)})
    for model in (fp8, int8):
        model.metadata_props[SOURCE_SHA256] = "a" * 64
    kept = Measured(choice=CpuChoice(runtime="onnxruntime", form="fp32", streams=1), samples_per_second={})
    assert remember(int8, kept) is not None
    assert remembered(int8) == kept.choice
    assert remembered(fp8) is None


def test_sessions_that_others_open_on_a_cpu_are_refused(tmp_path: Path) -> None:
    ir.save(in_fp8(tiny_mlp()), tmp_path / "model.onnx")
    with pytest.raises(SetupError, match=r"CPUExecutionProvider is not used for FP8: .*Use calib8\.open"):
        open_session(tmp_path / "model.onnx", "cpu")
    ir.save(in_fp8(tiny_encoder()), tmp_path / "encoder.onnx")
    with pytest.raises(ModelError, match=r"the model is in FP8, and Triton's ONNX Runtime .*Export the engine"):
        served_of(tmp_path / "encoder.onnx", "cpu", None)


def test_an_encoder_becomes_fp8_with_nothing_in_int8() -> None:
    model = prepare(tiny_encoder())
    ranges = calib8.calibrate(model, calib8.batches(token_feeds(*([3, 9, 15] * 4), vocabulary=32)))
    plan = calib8.plan(model, ranges, calib8.Fp8())
    assert (plan.precision, len(plan.quantised), {op.treatment for op in plan.ops}) == ("fp8", len(plan.ops), {"fp8"})
    quantised = calib8.quantize(model, ranges, calib8.Fp8())
    types = {value.dtype for value in quantised.graph.initializers.values()}
    assert ir.DataType.INT8 not in types
    assert {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT16} <= types
    assert '"fp8": {' in quantised.metadata_props["calib8.made_by"]
    batch = token_feeds(3, 9, 15, vocabulary=32, seed=1)
    with open_cpu(quantised) as runtime:
        got, expected = runtime.run(batch), outputs_of(model, batch)
    for name, array in expected.items():
        cosine = (array * got[name]).sum() / np.linalg.norm(array) / np.linalg.norm(got[name])
        assert cosine > 0.998


def test_convolutions_stay_in_float() -> None:
    model = prepare(tiny_convnet())
    ranges = calib8.calibrate(model, calib8.batches({"image": np.ones((4, 3, 8, 8), np.float32)}))
    plan = calib8.plan(model, ranges, calib8.Fp8(min_sqnr_db=0))
    reasons = {op.kind: op.reason for op in plan.ops if op.treatment == "float"}
    assert reasons == {"Conv": "FP8 is for MatMul and Gemm"}
    assert plan.quantised == [op.name for op in weighted_ops(model) if op.kind != "Conv"]


def test_an_int8_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"calib8\.Fp8: got embedding=True, expected False"):
        calib8.Fp8(embedding=True)


def test_there_is_nothing_to_fold_for_latency() -> None:
    with pytest.raises(ConfigError, match=r"got optimize='latency', expected accuracy: nothing stands between an op"):
        calib8.Fp8(optimize="latency")


def test_every_precision_has_a_grid_and_a_config() -> None:
    assert list(get_args(Precision)) == list(GRIDS) == list(CODES)
    assert {name: calib8.Quantize(precision=name).grid for name in GRIDS} == GRIDS


def test_short_forms_are_the_same_as_long_ones() -> None:
    same = {calib8.Fp8(): "fp8", calib8.Int8(min_sqnr_db=1): "int8"}
    assert same[calib8.Quantize(precision="fp8")] == "fp8"
    assert same[calib8.Quantize(min_sqnr_db=1)] == "int8"
    assert calib8.Int8() not in same
    with pytest.raises(ConfigError, match=r"calib8\.Int8: got precision='fp8', expected 'int8'"):
        calib8.Int8(precision="fp8")
    with pytest.raises(ConfigError, match=r"calib8\.Quantize: got precision='int3', expected 'int8' or 'fp8'"):
        calib8.Quantize(precision="int3")


def test_no_other_config_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"got options of type Verify, expected calib8\.Quantize"):
        calib8.plan(prepare(tiny_mlp()), None, calib8.Verify())


def test_with_data_weights_are_rounded_by_gptq_and_kept_for_the_next_run(tmp_path: Path, notes) -> None:
    model, data = prepare(tiny_encoder(width=64)), token_feeds(*([3, 9, 15] * 40), vocabulary=32)
    ranges = calib8.calibrate(model, calib8.batches(data))
    quantised = calib8.quantize(model, ranges, calib8.Fp8(), data=calib8.batches(data), progress=notes)
    plan = QuantPlan.model_validate_json(quantised.metadata_props["calib8.plan"])
    assert {op.treatment for op in plan.ops} == {"fp8"}
    assert {(op.recipe or "").split(" + ")[0].split(" ")[0] for op in plan.ops} <= {"plain", "reach"}
    case = case_of(model, ranges, calib8.batches(data), calib8.Fp8(), notes)
    found = case.solutions(notes)
    for name, solution in found.items():
        save(solution, tmp_path / "site.npz")
        again = load(tmp_path / "site.npz")
        assert again.quantised.grid is FP8
        for op, weight in solution.quantised.weights.items():
            assert again.quantised.weights[op].codes.dtype == E4M3
            np.testing.assert_array_equal(again.quantised.weights[op].codes.view(np.uint8), weight.codes.view(np.uint8))
        assert name in solution.quantised.weights


def test_what_cannot_be_in_fp8_alone_is_left_in_float_by_the_guard(notes) -> None:
    """The op whose outliers ruin it in INT8 is harmless here; one that a glob names stays in float."""
    model, data = prepare(planted(outlier=1e7)), calib8.batches(feeds())
    ranges = calib8.calibrate(model, data)
    config = calib8.Fp8(min_sqnr_db=0)
    quantised = calib8.quantize(model, ranges, config, data=data, progress=notes)
    plan = QuantPlan.model_validate_json(quantised.metadata_props["calib8.plan"])
    assert plan.nodes("float") == ["ruined"]
    assert plan.nodes("fp8") == [name for name in OPS if name != "ruined"]
    assert any("all of it in FP8 costs" in note for note in notes.messages)


def test_ops_are_ranked_by_what_fp8_costs(tmp_path: Path) -> None:
    ir.save(planted(), tmp_path / "model.onnx")
    found = calib8.sensitivity(tmp_path / "model.onnx", calib8.batches(feeds()), calib8.Fp8(), samples=8)
    assert found.precision == "fp8"
    assert {op.node for op in found.ops} == set(OPS)
    assert 0.99 < found.all_int8 < found.all_float


def test_functions_of_the_model_are_told_before_the_opset_is_raised() -> None:
    model = prepare(tiny_mlp())
    inner = ir.Graph([], [], nodes=[], opset_imports={"": 17}, name="inner")
    model.functions["own", "f", ""] = ir.Function("own", "f", graph=inner, attributes=[])
    with pytest.raises(ModelError, match=r"has opset 17 and functions of its own, and needs opset 19"):
        insert_qdq(model, weighted_ops(model), {}, FP8)
