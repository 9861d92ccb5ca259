"""Float engines of an FP32 model, to set INT8 against: real builds with TensorRT-RTX, no GPU needed."""

import hashlib
from pathlib import Path

import engine_models as tiny
import onnx_ir as ir
import pytest
from onnx import TensorProto
from plan_text import kept_layers

import calib8
from calib8.cli.main import main
from calib8.engine.sidecar import describe_engine
from calib8.errors import ConfigError, ModelError
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


@pytest.mark.parametrize(("precision", "builds"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_a_model_in_fp16_makes_no_engine_of_another_precision(precision: str, builds: bool, tmp_path: Path) -> None:
    ir.save(to_half(prepare(MODELS["encoder"]())), tmp_path / "model.onnx")
    config = calib8.Build(targets="sm86", precision=precision)
    if builds:
        (built,) = calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config)
        assert built.precision == "fp16"
        return
    with pytest.raises(
        ModelError, match=rf"in float16, so it would not compute in {precision} alone\. Export the model"
    ):
        calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config)
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
