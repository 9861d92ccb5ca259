"""The two scripts of examples/, run as a user runs them; engines by TensorRT-RTX."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.gpu.hardware import gpus
from calib8.testing import tiny_convnet, tiny_encoder, token_feeds

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = ["build_int8_engine.py", "inference_int8_trt.py"]


def script(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its calibration data, and the engine that the first script makes of them."""
    folder = tmp_path_factory.mktemp("scripts")
    ir.save(tiny_encoder(vocabulary=64, width=64, positions=32), folder / "model.onnx")
    (folder / "calib_data").mkdir()
    for name, array in token_feeds(*([3, 9, 17, 30] * 16), vocabulary=64).items():
        np.save(folder / "calib_data" / f"{name}.npy", array)
    made = script(SCRIPTS[0], folder / "model.onnx", folder / "calib_data", folder / "int8.engine", "--target", "sm86")
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{folder / 'int8.engine'}: 5 of 5 quantised ops planned in INT8\n"
    assert [line for line in made.stderr.splitlines() if line.startswith(("calibrate", "build for sm86"))]
    return folder


def test_an_engine_and_everything_beside_it(folder: Path) -> None:
    assert (folder / "calibration.cache").read_text().startswith("TRT-101600-MinMaxCalibration\n")
    sidecar = json.loads((folder / "int8.engine.json").read_text())
    assert (sidecar["target"], sidecar["engine_bytes"]) == ("sm86", (folder / "int8.engine").stat().st_size)


@pytest.mark.skipif(any(gpu.target == "sm86" for gpu in gpus()), reason="the engine's GPU is here: it would run")
def test_without_the_engines_gpu_the_reason_is_told(folder: Path) -> None:
    ran = script(SCRIPTS[1], folder / "int8.engine", folder / "calib_data")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "int8.engine cannot run here: the engine runs on sm86" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_same_model_on_the_cpu(folder: Path) -> None:
    ran = script(SCRIPTS[1], folder / "int8.int8.onnx", folder / "calib_data")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("last_hidden_state: float32 [64, 30, 64]\n[[[")


def test_sizes_reach_the_engine(folder: Path) -> None:
    shapes = "input_ids:1x4:2x8:4x16"
    made = script(SCRIPTS[0], folder / "model.onnx", folder / "calib_data", folder / "s.engine", "--target", "sm86",
                  "--shapes", shapes)  # fmt: skip
    assert made.returncode == 0, made.stderr
    profiles = json.loads((folder / "s.engine.json").read_text())["profiles"]
    assert {"name": "input_ids", "min": [1, 4], "opt": [2, 8], "max": [4, 16]} in profiles


def test_shapes_that_do_not_fit_are_told_before_the_long_work(folder: Path) -> None:
    model = tiny_convnet()
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", "width"])
    ir.save(model, folder / "images.onnx")
    made = script(SCRIPTS[0], folder / "images.onnx", folder / "no data yet", folder / "images.engine",
                  "--shapes", "images:1x3x8x8:1x3x8x8:1x3x8x8")  # fmt: skip
    assert made.returncode == 2
    assert "shapes given for 'images', but the model's inputs are image." in made.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_they_are_short_and_errors_are_messages(name: str, tmp_path: Path) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 40
    failed = script(name, tmp_path / "no.engine", tmp_path, *([tmp_path / "x.engine"] if "build" in name else []))
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr
