"""What nothing can be measured of is refused before it is calibrated."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.data.sources import Batches
from calib8.errors import ConfigError, DataError
from calib8.graph.builder import GraphBuilder
from calib8.runtime.ort import OrtRuntime
from calib8.verification.comparable import require_comparable

ROWS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


def relu(output: str = "y") -> ir.Model:
    """``x`` [batch, 4] -> Relu(x @ w), where all of w is positive: zero for rows of negative numbers."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    return g.model(**{output: g.op("Relu", g.op("MatMul", x, g.constant("w", np.ones((4, 3))), name="mm"))})


def test_an_output_that_is_zero_throughout_is_refused_before_calibration(tmp_path: Path, notes) -> None:
    ir.save(relu(), tmp_path / "model.onnx")
    data = [{"x": -np.abs(ROWS)}]
    with pytest.raises(DataError, match="output 'y' of the reference is zero throughout, which proves nothing about"):
        calib8.convert(tmp_path / "model.onnx", data, tmp_path / "out", calib8.Convert(build=None), progress=notes)
    assert notes.steps == []
    assert not (tmp_path / "out" / "ranges.json").exists()


@pytest.mark.parametrize(("first", "batches"), [(0, 1), (20, 2), (63, 4)])
def test_no_more_is_read_than_shows_something(first: int, batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 samples in batches of 16, those before ``first`` give zero."""
    x = np.where(np.arange(64)[:, None] < first, -np.abs(ROWS), np.abs(ROWS))
    run, seen = OrtRuntime.compute, list[int]()

    def counted(self: OrtRuntime, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(arrays["x"]))
        return run(self, arrays)

    monkeypatch.setattr(OrtRuntime, "compute", counted)
    require_comparable(relu(), Batches({"x": x}), None, {})
    assert seen == [16] * batches


def test_kinds_are_those_of_the_verdict() -> None:
    weak = Batches({"x": ROWS[:3]})
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    scaled = g.op("MatMul", g.op("Mul", x, g.constant("small", 1e-3)), g.weight("w", 4, 360), name="mm")
    model = g.model(y=g.op("Reshape", scaled, g.constant("to", [-1, 60, 6], np.int64)))
    require_comparable(model, weak, None, {})
    with pytest.raises(DataError, match="output 'y', taken for boxes, has nothing to compare in any of 3 samples"):
        require_comparable(model, weak, None, {"y": "boxes"})
    with pytest.raises((ConfigError, DataError), match="--output-kind names 'z', and the model's outputs are y"):
        require_comparable(model, weak, None, {"z": "boxes"})
