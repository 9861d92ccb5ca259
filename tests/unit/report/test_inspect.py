"""``inspect``: every file that calib8 reads or writes, whole or damaged."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.caches.cache import cache_of
from calib8.engine.plan_check import PlanCheck
from calib8.engine.profiles import parse_profile
from calib8.engine.sidecar import Sidecar, TensorInfo
from calib8.errors import InputError
from calib8.files import sha256_file
from calib8.graph.io import source_sha256
from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.report.inspect import inspect
from calib8.testing import tiny_mlp
from calib8.text.prepare import write_arrays
from calib8.text.tokenizer import TextTokenizer

PLAN = QuantPlan(
    ops=(OpPlan(node="mm", kind="MatMul", input="x", treatment="int8", reason="30.0 dB", amax=1.0, sqnr_db=30.0),)
)
SIDECAR = Sidecar(
    engine_sha256="0" * 64, engine_bytes=9, family="rtx", tensorrt_version="1.7.1.116", target="sm86",
    model_sha256="0" * 64, model_metadata={
        "calib8.plan": "x" * 999, "calib8.made_by": '{"calib8": "0.1.0"}',
        "calib8.cache": "TRT-8601-Legacy\nx: 3c010204\n",
    },
    profiles=(parse_profile("x:1x3:2x3:4x3"), parse_profile("x:1x3:8x3:8x3")),
    tensors=(TensorInfo(name="x", mode="input", dtype="float32", shape=(-1, 3)),),
    plan=PlanCheck(target="sm86", expected=1, covered=1, planned_kernels=1, divided=("n1", "n2")), workspace_mib=None,
    optimization_level=None, build_seconds=1.0, built_at="2026-01-01T00:00:00+00:00", calib8_version="0.1.0",
)  # fmt: skip


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_plan(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert inspect(tmp_path / "plan.json") == {"kind": "quantisation plan", "ops": {"mm": "int8: 30.0 dB"}}


def test_a_sidecar_without_its_engine(tmp_path: Path) -> None:
    (tmp_path / "x.engine.json").write_text(SIDECAR.model_dump_json())
    described = inspect(tmp_path / "x.engine.json")
    assert (described["kind"], described["target"]) == ("engine by TensorRT-RTX 1.7.1.116", "sm86")
    assert described["model_metadata"] == {"calib8.made_by": {"calib8": "0.1.0"}, "migrated from": "TRT-8601-Legacy"}
    assert described["profiles"] == {"1": {"x": "1x3:2x3:4x3"}, "2": {"x": "1x3:8x3:8x3"}}
    assert described["tensors"] == {"x": "input float32 [-1, 3]"}
    assert described["plan"] == {
        "target": "sm86",
        "expected": 1,
        "covered": 1,
        "planned_kernels": 1,
        "conditioning": 0,
        "divided": 2,
        "precision": "int8",
        "passed": True,
    }
    assert "optimization_level" not in described


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.int64))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 5), np.float32), y=np.zeros(2, np.int32))
    assert inspect(tmp_path / "a.npy") == {"kind": "NumPy array", "dtype": "int64", "shape": [2, 3]}
    assert inspect(tmp_path / "b.npz")["arrays"] == {"x": "float32 [4, 5]", "y": "int32 [2]"}


def test_what_prepare_wrote(tokenizer_folder: Path, tmp_path: Path, notes) -> None:
    (tmp_path / "a.txt").write_text("a b\n")
    folder = write_arrays([tmp_path / "a.txt"], TextTokenizer(tokenizer_folder), tmp_path / "calib", notes)
    described = inspect(folder / "calib_data.json")
    assert (described["kind"], described["sentences"]) == ("calib8.data/1", 1)


def test_a_cache_with_a_byte_order_mark(tmp_path: Path) -> None:
    cache_of({"x": 1.0}).save(tmp_path / "a.cache")
    (tmp_path / "a.cache").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.cache").read_bytes())
    assert inspect(tmp_path / "a.cache")["header"] == "TRT-101600-MinMaxCalibration"


def test_the_record_of_a_fetched_model(tmp_path: Path) -> None:
    described = inspect(written(tmp_path / "calib8-model.json", {"name": "all-mpnet-base-v2"}))
    assert described == {"kind": "fetched model", "name": "all-mpnet-base-v2"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", {"format": "calib8.plan/1"}, "is damaged or of another calib8: ops: Field required"),
        ("plan.json", {"format": "calib8.plan/1", "ops": [{"node": 1}]}, r"of another calib8: ops\.0\.node: "),
        ("ranges.json", {"format": "calib8.ranges/1"}, "is not a calib8 ranges file"),
        ("x.engine.json", {"engine_sha256": "0"}, "is no engine description of this calib8"),
        ("x.engine.json", [], "is no file that calib8 made"),
        ("other.json", {"format": 7}, "is no file that calib8 made"),
        ("a.npy", "text", "is not a readable .npy array"),
        ("a.npz", "text", "is not a readable .npz file"),
        ("noname", "text", r"noname: a name without a suffix does not tell its kind; expected \.engine"),
        ("a.xyz", "text", r"unknown kind of file '\.xyz'; expected \.engine or \.onnx, \.cache"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inspect(written(tmp_path / name, content))


def test_a_folder_names_the_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder, expected one file\.$"):
        inspect(tmp_path)
    PLAN.save(tmp_path / "plan.json")
    with pytest.raises(InputError, match=r"is a folder, expected one file in it: plan\.json\.$"):
        inspect(tmp_path)


def test_the_hash_of_a_model_says_of_what(tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "model.onnx")
    described = inspect(tmp_path / "model.onnx")
    assert described["SHA-256 of this file"] == sha256_file(tmp_path / "model.onnx")
    assert all("MB" not in size for size in described["weights"].values())  # which would be 0.0
    ir.save(tiny_mlp(), tmp_path / "large.onnx", external_data="weights.data", size_threshold_bytes=0)
    described = inspect(tmp_path / "large.onnx")
    assert described["SHA-256 of this file with those of its weights"] == source_sha256(tmp_path / "large.onnx")


def test_a_model_with_a_damaged_plan(tmp_path: Path) -> None:
    model = tiny_mlp()
    model.metadata_props["calib8.plan"] = '{"format": "calib8.plan/1"}'
    ir.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"model\.onnx is damaged or of another calib8: ops: Field required"):
        inspect(tmp_path / "model.onnx")
    model.metadata_props["calib8.plan"] = PLAN.model_dump_json()
    ir.save(model, tmp_path / "model.onnx")
    assert inspect(tmp_path / "model.onnx")["plan"] == {"int8": 1}
