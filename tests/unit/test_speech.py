"""A model that draws at random and computes the length of its output is converted like any other."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from speech import speech_model

import calib8
from calib8.quantization.quant_plan import QuantPlan


@pytest.mark.parametrize("goal", ["accuracy", "latency"])
def test_speech_is_converted(goal: str, tmp_path: Path) -> None:
    ir.save(speech_model(), tmp_path / "model.onnx")
    letters = np.random.default_rng(0).normal(size=(48, 1, 6, 8)).astype(np.float32)
    report = calib8.convert(tmp_path / "model.onnx", [{"text": letters}], tmp_path / "out", calib8.Convert(build=None))
    assert (report.passed, report.int8_ops, report.weighted_ops) == (True, 2, 4)
    plan = QuantPlan.load(tmp_path / "out" / "plan.json")
    assert plan.nodes("float") == ["encoder", "durations"]
