import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from trt_builds import building, install

from calib8.engine import build
from calib8.engine.sidecar import describe_engine
from calib8.gpu.hardware import Gpu
from calib8.testing import tiny_encoder, token_feeds
from calib8.verification import gpu_speed, on_gpu


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CALIB8_CACHE", str(folder))
    return folder


@pytest.fixture
def encoder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``model.onnx`` and ``data.npz``, on a machine that runs engines of any target."""
    ir.save(tiny_encoder(vocabulary=64, width=64, positions=32), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **token_feeds(*([3, 9, 17, 30] * 8), vocabulary=64))
    monkeypatch.setattr(on_gpu, "target_of", lambda path: describe_engine(path).target)
    monkeypatch.setattr(gpu_speed, "SECONDS", 0)
    return tmp_path


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a model into the test's folder and return its path."""

    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a TensorRT of a version where this process and the workers find it; returns the file of its calls."""
    folder = tmp_path / "modules"

    def choose(version: str, **options: Any) -> Path:
        folder.mkdir()
        calls = install(folder, version, **options)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        monkeypatch.setitem(sys.modules, "tensorrt", building(version))
        monkeypatch.setattr(build, "gpus", lambda: (Gpu("NVIDIA A10", "sm86"),))
        return calls

    return choose
