"""Calibration caches of real models there and back, to the byte: MPNet and a text detector, after `make e2e`'s demo."""

from pathlib import Path

import numpy as np
import pytest

import calib8
from calib8.errors import SetupError
from tensorrt_cache import HEADER, tensorrt_cache

ROOT = Path(__file__).parents[2]
MPNET, DETECTOR = "all-mpnet-base-v2", "PP-OCRv4-det"
IDS = np.random.default_rng(0).integers(4, 30000, (4, 24))
TOKENS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
IMAGE = {"x": np.random.default_rng(0).normal(size=(1, 3, 96, 96)).astype(np.float32)}


@pytest.mark.parametrize(("name", "feeds", "ops"), [(MPNET, TOKENS, 72), (DETECTOR, IMAGE, 62)], ids=["mpnet", "cnn"])
def test_there_and_back(name: str, feeds: dict[str, np.ndarray], ops: int, tmp_path: Path) -> None:
    """Every tensor of the model, and TensorRT's own, are in the cache."""
    model = fetched(name)
    cache, int8, back = tmp_path / "calibration.cache", tmp_path / "model.int8.onnx", tmp_path / "back.cache"
    text = tensorrt_cache(model, feeds)
    cache.write_text(text, encoding="utf-8")
    migration = calib8.migrate(cache, model, int8, calib8.Migrate(strict=True))
    assert migration.int8_ops == migration.weighted_ops == ops
    assert migration.unknown == ()
    assert len(migration.unneeded) > 100
    assert len(migration.builtin) == text.count("(Unnamed Layer* ") > 50
    exported = calib8.export_cache(int8, back)
    assert exported.left_out == {}
    assert back.read_text(encoding="utf-8") == text.replace(HEADER, "TRT-101600-EntropyCalibration2")


def fetched(name: str) -> Path:
    try:
        return calib8.fetch(name, ROOT / "models" / name) / "model.onnx"
    except SetupError as error:
        pytest.skip(f"{name} cannot be fetched here: {error}")


def test_the_demos_cache_and_the_plain_model_tell_the_same(tmp_path: Path) -> None:
    demo = ROOT / "build" / "mpnet"
    if not (demo / "ranges.json").is_file():
        pytest.skip("run `make demo` first")
    calib8.migrate(demo / "calibration.cache", fetched(MPNET), tmp_path / "model.int8.onnx")
    for source in (demo / "ranges.json", tmp_path / "model.int8.onnx"):
        calib8.export_cache(source, tmp_path / "back.cache")
        assert (tmp_path / "back.cache").read_bytes() == (demo / "calibration.cache").read_bytes()
