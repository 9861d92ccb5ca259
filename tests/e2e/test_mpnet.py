"""The real all-mpnet-base-v2, after `make demo`: what it left behind, and the README's commands on it."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import calib8
from calib8 import Build
from calib8.caches.cache import Cache
from calib8.calibration.ranges import Ranges
from calib8.engine.sidecar import describe_engine
from calib8.graph.io import load
from calib8.runtime.choice import CpuChoice
from calib8.runtime.cpu import open_form
from calib8.runtime.forms import in_form
from calib8.runtime.names import Form
from calib8.runtime.openvino import OpenVinoRuntime

ROOT = Path(__file__).parents[2]
MODEL, DEMO = ROOT / "models" / "all-mpnet-base-v2", ROOT / "build" / "mpnet"
TARGETS = ["sm75", "sm86", "sm89", "sm120"]

pytestmark = pytest.mark.skipif(not (DEMO / "report.json").is_file(), reason="run `make demo` first")


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((DEMO / "report.json").read_text(encoding="utf-8"))


def test_the_int8_model_is_accurate(report: dict) -> None:
    assert report["passed"]
    assert report["accuracy"]["samples"] == 256
    vectors = report["accuracy"]["outputs"]["last_hidden_state"]
    assert vectors["mean"] >= 0.9965
    assert vectors["p1"] >= 0.994


def test_every_target_plans_every_int8_gemm(report: dict) -> None:
    assert [engine["target"] for engine in report["engines"]] == TARGETS
    for engine in report["engines"]:
        plan = engine["plan"]
        assert plan["expected"] == plan["covered"] == report["int8_ops"] == 60  # without attention's projections
        assert plan["planned_kernels"] == 36  # Q, K and V are one GEMM: three per layer
        assert plan["missing"] == []
        assert engine["executed"] is False


@pytest.mark.parametrize("form", ["s8", "u8"])
def test_every_gemm_runs_on_integers_on_the_cpu(form: Form) -> None:
    """Right or not: which is asked elsewhere."""
    choice = CpuChoice(runtime="openvino", form=form, streams=1)
    with open_form(in_form(load(DEMO / "model.int8.onnx"), form), choice) as opened:
        assert isinstance(opened, OpenVinoRuntime)
        kernels = opened.executed()
    found = Counter(precision for kind, precision in kernels if kind == "FullyConnected")
    assert found.pop("u8" if form == "u8" else "i8") == 60
    assert sum(found.values()) == 12  # attention's projections, in whichever float this CPU is fastest in


@pytest.mark.parametrize("target", TARGETS)
def test_every_engine_has_its_sidecar(target: str) -> None:
    sidecar = describe_engine(DEMO / f"mpnet-int8.{target}.engine")
    assert sidecar.target == target
    assert [tensor.name for tensor in sidecar.tensors] == ["input_ids", "attention_mask", "last_hidden_state"]


def test_one_engine_for_every_architecture_plans_what_single_ones_do(tmp_path: Path) -> None:
    (joint,) = calib8.build(DEMO / "model.int8.onnx", tmp_path / "x.engine", Build(targets="+".join(TARGETS)))
    assert (joint.plan.expected, joint.plan.covered, joint.plan.planned_kernels) == (60, 60, 36)
    sidecar, single = describe_engine(joint.path), describe_engine(DEMO / "mpnet-int8.sm75.engine")
    assert sidecar.target == "sm75+sm86+sm89+sm120"
    assert all(sidecar.fits(target) for target in TARGETS)
    assert joint.size_bytes == pytest.approx(single.engine_bytes, rel=0.01)  # compiled to the end where it runs


def test_two_profiles_share_the_weights(tmp_path: Path) -> None:
    shapes = ("input_ids:1x1:1x16:1x64", "input_ids:1x1:8x64:64x384")
    (both,) = calib8.build(DEMO / "model.int8.onnx", tmp_path / "x.engine", Build(targets="sm86", shapes=shapes))
    assert (both.plan.expected, both.plan.covered, both.plan.planned_kernels) == (60, 60, 36)
    one = describe_engine(DEMO / "mpnet-int8.sm86.engine")
    assert one.engine_bytes < both.size_bytes < 1.15 * one.engine_bytes
    assert [profile.max for profile in describe_engine(both.path).profiles] == [(1, 64), (1, 64), (64, 384), (64, 384)]


def test_cache_and_ranges_tell_the_same() -> None:
    ranges = Ranges.load(DEMO / "ranges.json")
    cache = Cache.load(DEMO / "calibration.cache").amax()
    assert len(cache) == 48  # 12 layers x (input of Q, K and V; of the output; of both feed-forward GEMMs)
    for name, amax in ranges.amax().items():
        assert cache[name] == pytest.approx(amax, rel=1e-6)


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    block = re.search(r"Step by step, .*:\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert block is not None
    commands = [shlex.split(line) for line in block[1].splitlines()]
    assert len(commands) == 12
    (tmp_path / "examples" / "mpnet").mkdir(parents=True)
    for name in ("calibration.txt", "held_out.txt"):  # every fourth text, to be done sooner
        lines = (ROOT / "examples" / "mpnet" / name).read_text(encoding="utf-8").splitlines()
        (tmp_path / "examples" / "mpnet" / name).write_text("\n".join(lines[::4]), encoding="utf-8")
    for command in commands:
        briefly = ["--seconds", "0"] if command[1] == "bench" else []  # what it measures is nobody's business here
        program = [sys.executable, "-m", *command, *briefly]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape == (64, 768)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


def test_the_readme_shows_this_demo(report: dict) -> None:
    """The accuracy depends on the CPU in the last digits only; anything else means that the README is stale."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = float(re.search(r"cosine to FP32, mean .*│ +(0\.\d+) │", text)[1])
    assert report["accuracy"]["outputs"]["last_hidden_state"]["mean"] == pytest.approx(shown, abs=3e-4)
    assert f"{report['int8_ops']} of {report['weighted_ops']}" in text
    assert all(target in text for target in TARGETS)
