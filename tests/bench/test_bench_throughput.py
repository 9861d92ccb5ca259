from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from calib8.graph.io import save
from calib8.testing import tiny_encoder

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    import encoders

    return encoders


def test_a_model_that_a_tool_made_of_another_is_not_taken(
    encoders: ModuleType, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Two models in one work folder: each row is of the model that was named, and a tool's model is made once."""
    settings = {"fp32": str(tokenizer_folder), "pytorch": str(tokenizer_folder), "calibration": ["a"]}
    settings["work"] = str(tmp_path / "work")
    found, made = [], []
    for vocabulary in (32, 48, 32):  # other random weights
        save(tiny_encoder(vocabulary=vocabulary), tokenizer_folder / "model.onnx")
        settings["made"] = str(encoders.made_in(settings))
        Path(settings["made"]).mkdir(parents=True, exist_ok=True)
        found.append(encoders.onnxruntime_dynamic(settings)(["a b", "c d e"]))
        made.append(encoders.onnxruntime_fp32(settings)(["a b", "c d e"]))
    for got, expected in zip(found, made, strict=True):
        assert np.sum(got * expected, axis=1).min() > 0.99
    assert np.abs(found[0] - found[1]).max() > 0.1
    assert len(list((tmp_path / "work").glob("*/dynamic/model.onnx"))) == 2


def test_what_tools_make_depends_on_texts_and_on_pytorch_files(
    encoders: ModuleType, tokenizer_folder: Path, tmp_path: Path
) -> None:
    settings = {"fp32": str(tokenizer_folder), "pytorch": str(tmp_path / "torch"), "calibration": ["a"], "work": "w"}
    weights = tmp_path / "torch" / "deep" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    first = encoders.made_in(settings)
    assert first == encoders.made_in({**settings, "texts": {"short": ["b"]}})  # nothing is made of these
    assert first != encoders.made_in({**settings, "calibration": ["b"]})
    weights.write_bytes(b"two")
    assert first != encoders.made_in(settings)
