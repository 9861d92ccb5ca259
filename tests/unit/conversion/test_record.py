"""What is kept beside a quantised model comes back as it was."""

import json
from pathlib import Path

import pytest

from calib8.conversion.record import Record
from calib8.verification.bench import Cell
from calib8.verification.gains import Gain, Gains, KernelMs
from calib8.verification.gpu_speed import GpuSpeed
from calib8.verification.speed import Latency

ONE = Latency(runs=5, median_ms=3, p95_ms=3, p99_ms=3, samples_per_second=1)


@pytest.mark.parametrize("length", [None, 16])
def test_gains_with_a_race_come_back(length: int | None, tmp_path: Path) -> None:
    """A model without a sequence has no length: that is null, and has to be there."""
    cell = Cell(batch=4, length=length, latencies={"x.engine": ONE, "y.engine": ONE})
    times = (KernelMs(float_ms=2, int8_ms=1),)
    gain = Gain(groups=(("op",),), told="MatMul 4x8", quantised=True, found=True, times=times)
    race = GpuSpeed(runtime="H200", baseline="x.engine", engine="y.engine", cells=(cell,))
    record = Record(sha256="0", gains=Gains(runtime="H200", shapes=("4",), gains=(gain,), tail=times, without=race))
    record.save(tmp_path / "model.int8.onnx")
    assert Record.of(tmp_path / "model.int8.onnx") == record


def test_what_was_not_timed_is_not_there(tmp_path: Path) -> None:
    Record(sha256="0").save(tmp_path / "model.int8.onnx")
    kept = json.loads((tmp_path / "model.int8.onnx.json").read_text())
    assert kept == {"format": "calib8.model/1", "sha256": "0"}
    assert Record.of(tmp_path / "model.int8.onnx") == Record(sha256="0")
