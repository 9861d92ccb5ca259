import hashlib
import json

import pytest

from calib8.engine import sidecar as sidecar_module
from calib8.engine.plan_check import PlanCheck
from calib8.engine.sidecar import Sidecar, describe_engine, sidecar_path, why_not_here
from calib8.errors import InputError
from calib8.gpu.hardware import Gpu
from calib8.report.inspect import _engine

CONTENT = b"an engine"


def sidecar(**changes) -> Sidecar:
    values = {
        "engine_sha256": hashlib.sha256(CONTENT).hexdigest(),
        "engine_bytes": len(CONTENT),
        "family": "rtx",
        "tensorrt_version": "1.7.1.116",
        "target": "sm86",
        "model_sha256": "0" * 64,
        "model_metadata": {},
        "profiles": (),
        "tensors": (),
        "plan": PlanCheck(target="sm86", expected=1, covered=1, planned_kernels=1),
        "workspace_mib": None,
        "optimization_level": None,
        "build_seconds": 1.0,
        "built_at": "2026-01-01T00:00:00+00:00",
        "calib8_version": "0.1.0",
    }
    return Sidecar(**{**values, **changes})


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "x.engine"
    path.write_bytes(CONTENT)
    sidecar_path(path).write_text(sidecar().model_dump_json())
    return path


def test_what_was_written_is_read(engine):
    assert sidecar_path(engine).name == "x.engine.json"
    assert describe_engine(engine) == sidecar()
    assert describe_engine(engine).builder == "TensorRT-RTX 1.7.1.116"


def test_an_older_sidecar_is_read(engine):
    """One from before plans told of profiles' misses, hosts and precisions, and engines of their GPU."""
    content = json.loads(sidecar_path(engine).read_text())
    for name in ("gpu", "precision", "exclude_lean_runtime", "calibration"):
        del content[name]
    for name in ("passed", "host_driven", "precision"):
        del content["plan"][name]
    sidecar_path(engine).write_text(json.dumps(content))
    assert describe_engine(engine) == sidecar()


def test_missing_files_are_told(engine):
    with pytest.raises(InputError, match="TensorRT engine not found"):
        describe_engine(engine.with_name("y.engine"))
    sidecar_path(engine).unlink()
    with pytest.raises(InputError, match=r"has no x\.engine\.json beside it, and an engine alone does not tell"):
        describe_engine(engine)


@pytest.mark.parametrize("content", [b"an other engine", b"An engine"], ids=["size", "bytes"])
def test_another_engine_is_told(engine, content):
    engine.write_bytes(content)
    with pytest.raises(InputError, match="describes another engine"):
        describe_engine(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 2}, "format"), ({"surprise": 1}, "surprise"), ({"engine_bytes": "many"}, "engine_bytes")],
)
def test_a_foreign_sidecar_is_told(engine, change, message):
    content = json.loads(sidecar_path(engine).read_text())
    sidecar_path(engine).write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=f"is no engine description of this calib8: {message}"):
        describe_engine(engine)


def test_a_damaged_sidecar_is_told(engine):
    for text, message in (("{", "no valid JSON"), ("[]", "its root")):
        sidecar_path(engine).write_text(text)
        with pytest.raises(InputError, match=message):
            describe_engine(engine)


A10, L4, H100 = Gpu("NVIDIA A10", "sm86"), Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA H100 80GB HBM3", "sm90")


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        ((), r"the engine runs on sm86 \(Ampere.*no NVIDIA GPU, or no driver"),
        ((L4,), r"runs on sm86 .*; this machine has NVIDIA L4 \(sm89\)\. Build it for sm89"),
        ((H100,), r"TensorRT-RTX does not run on NVIDIA H100 80GB HBM3 \(sm90\)"),
    ],
)
def test_why_an_engine_cannot_run_here(present, reason):
    import re

    assert re.search(reason, why_not_here(sidecar(), present) or "")


def test_a_gpu_may_be_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (why_not_here(sidecar(), ()) or "").endswith(
        "(nvidia-smi finds none, or CUDA_VISIBLE_DEVICES='' leaves none)"
    )


def test_inspect_says_in_short_lines_where_it_runs(monkeypatch):
    monkeypatch.setattr("calib8.engine.sidecar.gpus", lambda: ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    facts = _engine(sidecar())
    assert facts["runs on"] == "sm86 (Ampere: A10, A40, RTX 30)"
    assert facts["runs here"] == "no: this machine has no NVIDIA GPU, or no driver (nvidia-smi finds none)"


def test_an_engine_runs_where_its_gpu_is(monkeypatch):
    assert why_not_here(sidecar(), (H100, A10)) is None
    assert why_not_here(sidecar(family="tensorrt", target="sm90"), (H100,)) is None
    monkeypatch.setattr(sidecar_module, "gpus", tuple)
    assert "no NVIDIA GPU" in (why_not_here(sidecar()) or "")
