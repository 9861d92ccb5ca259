from collections.abc import Callable
from pathlib import Path

import onnx
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CALIB8_CACHE", str(folder))
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Write a model into the test's folder and return its path."""

    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save
