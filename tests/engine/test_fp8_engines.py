"""FP8 in real plans of TensorRT-RTX, which builds for GPUs that are not here."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.engine.able import able
from calib8.engine.sidecar import describe_engine
from calib8.errors import ModelError, PlanMismatch, ProfileError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.precision import FP8, INT8
from calib8.progress import Quiet
from calib8.testing import tiny_encoder, token_feeds

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

SHAPES = ("input_ids:1x1:4x16:8x32",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``model.onnx`` and ``data.npz``."""
    ir.save(tiny_encoder(vocabulary=64, width=64, positions=32), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **token_feeds(*([3, 9, 17, 30] * 16), vocabulary=64))
    return tmp_path


@pytest.fixture
def fp8(folder: Path) -> Path:
    """``model.onnx`` in FP8."""
    model = calib8.load(folder / "model.onnx")
    ranges = calib8.calibrate(model, folder / "data.npz")
    return calib8.save(calib8.quantize(model, ranges, calib8.Fp8()), folder / "fp8.onnx")


def gemm(quantised_activation: bool = True) -> ir.Model:
    """``x`` [rows, 64] -> MatMul called ``mm`` -> ``y`` [rows, 128], FP16 inside."""
    from calib8.passes.half import to_half

    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "rows", 64)
    model = prepare(g.model(y=g.op("MatMul", x, g.weight("w", 64, 128), name="mm")))
    insert_qdq(model, weighted_ops(model), {"x": 4.0}, FP8)
    if not quantised_activation:
        mm = next(node for node in model.graph if node.name == "mm")
        mm.replace_input_with(0, model.graph.inputs[0])
        for node in [node for node in model.graph if node.name.startswith("x_")][::-1]:
            model.graph.remove(node, safe=True)
    return to_half(model)


@pytest.mark.parametrize("target", ["sm89", "sm120"])
def test_every_op_is_planned_in_fp8(fp8: Path, tmp_path: Path, target: str) -> None:
    (built,) = calib8.build(fp8, tmp_path / "x.engine", calib8.Build(targets=target, shapes=SHAPES))
    assert (built.plan.covered, built.plan.expected, built.plan.precision) == (6, 6, "fp8")
    assert built.describe().startswith("FP8 ops planned 6 of 6 in ")
    assert describe_engine(built.path).precision == "fp8"


def test_by_default_there_is_no_engine_for_gpus_without_fp8(fp8: Path, tmp_path: Path, notes) -> None:
    built = calib8.build(fp8, tmp_path / "x.engine", calib8.Build(shapes=SHAPES), progress=notes)
    assert [engine.target for engine in built] == ["sm89", "sm120"]
    assert any(
        note.startswith("no engine for sm75 (Turing: T4, RTX 20), sm86 (Ampere")
        and note.endswith("which cannot multiply FP8")
        for note in notes.messages
    )


@pytest.mark.parametrize("target", ["sm86", "sm89,sm75", "sm86+sm89"])
def test_one_that_is_asked_for_is_refused(fp8: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(
        ProfileError, match=r"no FP8 engine for sm(86|75).*: GPUs multiply FP8 from sm89 \(Ada: .*--precision int8"
    ):
        calib8.build(fp8, tmp_path / "x.engine", calib8.Build(targets=target, shapes=SHAPES))
    assert not list(tmp_path.glob("*.engine*"))


def test_a_builder_for_its_own_gpu_is_refused_where_that_has_no_fp8() -> None:
    turing, hopper = ("sm75",), ("sm90",)
    with pytest.raises(ProfileError, match=r"no FP8 engine for sm75"):
        able(turing, calib8.Build(), FP8, Quiet())
    assert able(turing, calib8.Build(), INT8, Quiet()) == ("sm75",)
    assert able(hopper, calib8.Build(), FP8, Quiet()) == ("sm90",)
    with pytest.raises(ProfileError, match="no FP8 engine for everything from Ampere on"):
        able(hopper, calib8.Build(hardware_compatibility="ampere+"), FP8, Quiet())


def test_a_gemm_that_is_dequantised_is_a_miss(tmp_path: Path) -> None:
    ir.save(gemm(quantised_activation=False), tmp_path / "model.onnx")
    config = calib8.Build(targets="sm89", shapes=("x:1x64:8x64:32x64",))
    with pytest.raises(PlanMismatch, match=r"runs 0 of 1 quantised ops in FP8\. Not in FP8: mm: its activation"):
        calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config)
    assert describe_engine(tmp_path / "x.engine").plan.covered == 0


def test_the_precision_asked_for_must_be_the_model_s(tmp_path: Path) -> None:
    ir.save(gemm(), tmp_path / "model.onnx")
    config = calib8.Build(targets="sm89", precision="int8", shapes=("x:1x64:8x64:32x64",))
    with pytest.raises(ModelError, match=r"model\.onnx is quantised to FP8, and INT8 was asked for"):
        calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", config)


def test_int8_and_fp8_in_one_network_are_refused(tmp_path: Path) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "rows", 64)
    model = prepare(g.model(y=g.op("MatMul", g.op("MatMul", x, g.weight("w", 64, 64)), g.weight("v", 64, 64))))
    first, second = weighted_ops(model)
    insert_qdq(model, [first], {first.activation.name or "": 4.0}, FP8)
    insert_qdq(model, [second], {second.activation.name or "": 4.0})
    ir.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="INT8 and FP8 codes, and TensorRT takes one of them in a network"):
        calib8.build(tmp_path / "model.onnx", tmp_path / "x.engine", calib8.Build(targets="sm89"))


def test_the_whole_recipe_says_fp8(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    build = calib8.Build(targets="sm89", shapes=SHAPES)
    config = calib8.Convert(quantize=calib8.Fp8(), build=build, verify=calib8.Verify(min_cosine=0.99))
    report = calib8.convert(folder / "model.onnx", folder / "data.npz", output, config)
    assert (report.passed, report.precision, report.int8_ops, report.weighted_ops) == (True, "fp8", 6, 6)
    assert {"model.fp8.onnx", "tiny-fp8.engine", "tiny-fp8.engine.json"} <= {path.name for path in output.iterdir()}
    assert "FP8 codes multiplied in FP32" in report.accuracy_runtime
    told = json.loads((output / "plan.json").read_text())
    assert {op["treatment"] for op in told["ops"]} == {"fp8"}
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "6 of 6 ops with weights are FP8." in page
    assert "FP8 ops planned" in page
    assert "INT8 ops planned" not in page


def test_a_target_without_fp8_is_told_before_the_work(folder: Path, tmp_path: Path, notes) -> None:
    config = calib8.Convert(quantize=calib8.Fp8(), build=calib8.Build(targets="sm86", shapes=SHAPES))
    with pytest.raises(ProfileError, match="no FP8 engine for sm86"):
        calib8.convert(folder / "model.onnx", folder / "data.npz", tmp_path / "out", config, progress=notes)
    assert not notes.steps
