"""Float engines of an FP32 model, to set INT8 against: real builds with TensorRT-RTX, no GPU needed."""

import hashlib
from pathlib import Path

import engine_models as tiny
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from plan_text import kept_layers

import calib8
from calib8.cli.main import main
from calib8.data.sources import Batches
from calib8.engine.sidecar import describe_engine
from calib8.errors import ConfigError, InputError, ModelError, RangesError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load
from calib8.graph.weighted import weighted_ops
from calib8.passes.half import to_half
from calib8.passes.prepare import prepare
from calib8.testing import tiny_convnet, tiny_encoder
from calib8.verification.on_gpu import quantised_model_of

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

MODELS = {"encoder": lambda: tiny_encoder(vocabulary=64, width=64, positions=32), "cnn": tiny_convnet}
IN_THE_PLAN = {"fp16": "Half", "bf16": "BFloat16", "fp32": "Float"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", IN_THE_PLAN)
def test_every_product_of_the_plan_reads_the_precision_asked_for(name: str, precision: str, tmp_path: Path) -> None:
    model, log = tmp_path / "model.onnx", tmp_path / "log"
    ir.save(MODELS[name](), model)
    before = model.read_bytes()
    config = calib8.Build(targets="sm86", precision=precision, log=log)
    (built,) = calib8.build(model, tmp_path / "x.engine", config)
    layers = kept_layers(log)
    for op in weighted_ops(calib8.load(model)):
        assert [layer for layer in layers if layer.computes(op.name)], op.name
    assert [layer for layer in layers if layer.computes("count_out_ReduceSum")] or name != "encoder"  # no CumSum
    products = [layer for layer in layers if layer.kind in ("gemm", "correlation", "runtime_fusion")]
    matrices = [t for layer in layers for t in layer.constants if sum(size > 1 for size in t.dims) > 1]
    assert {t.dtype for layer in products for t in layer.inputs} == {IN_THE_PLAN[precision]}
    assert {t.dtype for t in matrices} == {IN_THE_PLAN[precision]}
    sidecar = describe_engine(built.path)
    assert (sidecar.precision, built.precision) == (precision, precision)
    assert built.describe() == f"computes in {precision.upper()}"
    assert (built.plan.expected, built.plan.missing) == (0, ())
    assert sidecar.model_sha256 == hashlib.sha256(before).hexdigest()  # of the model itself, not of its float form
    assert {(t.name, t.dtype) for t in sidecar.tensors if t.mode == "output"} == {
        (v.name, "float32") for v in load(model).graph.outputs
    }
    assert model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "model.onnx", "x.engine", "x.engine.json"]


def test_another_precision_is_another_engine_and_the_same_is_reused(tmp_path: Path, notes) -> None:
    model, engine = tmp_path / "model.onnx", tmp_path / "x.engine"
    ir.save(MODELS["encoder"](), model)
    for precision, reused in (("fp16", False), ("fp16", True), ("fp32", False)):
        notes.messages.clear()
        calib8.build(model, engine, calib8.Build(targets="sm86", precision=precision), progress=notes)
        assert bool([said for said in notes.messages if "up to date" in said]) is reused


def test_the_position_table_bounds_the_shapes_as_for_int8(tmp_path: Path, notes) -> None:
    ir.save(MODELS["encoder"](), tmp_path / "model.onnx")
    config = calib8.Build(targets="sm86", precision="fp16")
    calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config, progress=notes)
    (profile, *_) = describe_engine(tmp_path / "x.engine").profiles
    assert profile.max[1] <= 32


def test_a_quantised_model_has_no_float_form(saved, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx has Q/DQ nodes, and precision fp16 is for the float model"):
        calib8.build(saved(tiny.mlp()), tmp_path / "x.engine", calib8.Build(targets="sm86", precision="fp16"))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_model_in_fp16_makes_engines_of_every_precision(precision: str, tmp_path: Path) -> None:
    ir.save(to_half(prepare(MODELS["encoder"]())), tmp_path / "model.onnx")
    config = calib8.Build(targets="sm86", precision=precision)
    (built,) = calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config)
    assert built.precision == precision


def test_codes_in_fp16_keep_their_type(tmp_path: Path) -> None:
    """An engine of that model would be in part FP16, whatever is asked for."""
    g = GraphBuilder(opset=19)
    codes, scale = g.constant("codes", np.ones((8, 4)), np.int8), g.constant("s", 0.1, np.float16)
    rows = g.op("Gather", g.op("DequantizeLinear", codes, scale), g.input("ids", ir.DataType.INT64, "batch"))
    ir.save(g.model(y=g.op("Cast", g.op("Relu", rows), to=int(ir.DataType.FLOAT))), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"in float16, so it would not compute in fp32 alone\. Export the model"):
        calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", calib8.Build(targets="sm86", precision="fp32"))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_without_a_precision_a_float_model_is_refused_with_both_ways_out(saved, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"calib8 quantize.*--precision fp16.*--allow-float"):
        calib8.build(saved(tiny.fp32_gemm()), tmp_path / "x.engine", calib8.Build(targets="sm86"))


def test_a_calibrator_makes_int8() -> None:
    with pytest.raises(ConfigError, match="a calibrator makes INT8 engines, got precision fp16"):
        calib8.Build(calibrator="minmax", precision="fp16")


def test_verification_knows_no_quantised_model_behind_a_float_engine(tmp_path: Path) -> None:
    ir.save(MODELS["encoder"](), tmp_path / "model.onnx")
    config = calib8.Build(targets="sm86", precision="fp16")
    (built,) = calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config)
    assert quantised_model_of(built.path, describe_engine(built.path)) is None


def test_the_command_line_names_the_precision(saved, tmp_path: Path, monkeypatch, capsys) -> None:
    model = tiny.fp32_gemm()
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    argv = ["calib8", "build", str(saved(model)), "-o", str(tmp_path / "x.engine"), "--target", "sm75", "-q"]
    monkeypatch.setattr("sys.argv", [*argv, "--precision", "fp16"])  # Turing has no FP32 product
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.endswith("computes in FP16\n")


def far(folder: Path, name: str = "model.onnx", *, by: float = 1000.0) -> Path:
    """x -> MatMul -> Mul(``by``) -> Relu -> Mul(1 / ``by``) -> y, beside what calibration saw: x goes to 90."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 32)
    product = g.op("MatMul", x, g.constant("w", np.eye(32)), name="product")
    large = g.op("Relu", g.op("Mul", product, g.constant("up", by), name="large"), name="relu")
    path = calib8.save(g.model(y=g.op("Mul", large, g.constant("down", 1 / by), name="small")), folder / name)
    seen = np.linspace(-90, 90, 32 * 16, dtype=np.float32).reshape(16, 32)
    calib8.calibrate(path, Batches([{"x": seen}]), output=path.with_suffix(".json"))
    return path


def built_in_fp16(model: Path, ranges: Path | None, notes, **options: object) -> calib8.BuiltEngine:
    notes.messages.clear()
    config = calib8.Build(
        precision="fp16", ranges=ranges, **{"targets": "sm86", "log": model.with_name("log"), **options}
    )
    return calib8.build(model, model.with_name("x.engine"), config, progress=notes)[0]


def fused(folder: Path) -> str:
    """The ops of the kernel that multiplies, in order, as TensorRT calls it."""
    (name,) = [layer.name for layer in kept_layers(folder / "log") if "Fc" in layer.name]
    return name.split("_")[3]


def test_what_calibration_saw_beyond_fp16_is_fp32_in_the_engine(tmp_path: Path, notes) -> None:
    model = far(tmp_path)
    built = built_in_fp16(model, model.with_suffix(".json"), notes)
    assert describe_engine(built.path).unheld == ("large_out",)
    assert fused(tmp_path) == "FcCastMulReluMul"  # FP32 from the product on
    assert not [said for said in notes.messages if "nobody looked" in said]


def test_without_ranges_nobody_looked_and_that_is_told(tmp_path: Path, notes) -> None:
    built = built_in_fp16(far(tmp_path), None, notes)
    assert fused(tmp_path) == "FcMulReluMulCast"  # FP16 up to the output
    assert describe_engine(built.path).unheld is None
    assert [said for said in notes.messages if "nobody looked" in said] == [
        "nobody looked whether FP16 holds all numbers of the model: calibrate it (calib8 calibrate model.onnx "
        "--data …), and give what that found (--ranges ranges.json)"
    ]


def test_ranges_that_say_something_else_make_another_engine(tmp_path: Path, notes) -> None:
    model = far(tmp_path)
    ranges = model.with_suffix(".json")
    built_in_fp16(model, ranges, notes, log=None)
    for given, reused in ((ranges, True), (None, False), (ranges, False)):
        built_in_fp16(model, given, notes, log=None)
        why = [said for said in notes.messages if "what FP16 does not hold changed since" in said]
        assert [bool(why), any("up to date" in said for said in notes.messages)] == [not reused, reused]


def test_a_product_beyond_fp16_has_no_engine_for_turing(tmp_path: Path, notes) -> None:
    model = far(tmp_path)
    ranges = calib8.Ranges.load(model.with_suffix(".json"))
    beyond = {"product_out": ranges.beyond["large_out"]}
    ranges.model_copy(update={"beyond": beyond}).save(tmp_path / "product.json")
    config = calib8.Build(precision="fp16", ranges=tmp_path / "product.json")
    engines = calib8.build(model, tmp_path / "x.engine", config, progress=notes)
    assert [engine.target for engine in engines] == ["sm86", "sm89", "sm120"]
    assert "no FP32 GEMM for it, and 1 stay FP32 (product)" in " ".join(notes.messages)


def test_ranges_of_another_model_or_none_are_refused(tmp_path: Path, notes) -> None:
    model, other = far(tmp_path), far(tmp_path, "other.onnx", by=2000.0)
    with pytest.raises(RangesError, match=r"the ranges were made from another model: its SHA-256 begins with"):
        built_in_fp16(model, other.with_suffix(".json"), notes)
    (tmp_path / "cut.json").write_text('{"format": "calib8.ranges/1"')
    for name, told in (("cut.json", "cut.json"), ("no.json", r"no\.json"), ("model.onnx", "model.onnx")):
        with pytest.raises(InputError, match=told):
            built_in_fp16(model, tmp_path / name, notes)
    assert not (tmp_path / "x.engine").exists()


@pytest.mark.parametrize("precision", [None, "bf16", "fp32"])
def test_ranges_are_for_fp16(precision: str | None, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"ranges say what FP16 does not hold, for precision fp16: got {precision or 'none'}"
    ):
        calib8.Build(precision=precision, ranges=tmp_path / "ranges.json")
