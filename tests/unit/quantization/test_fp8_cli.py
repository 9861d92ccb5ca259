"""FP8 from the command line."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from planted_models import feeds, planted
from shell import Shell


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(planted(30.0), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **feeds(64))
    return tmp_path / "model.onnx"


def test_the_same_commands_with_another_precision(calib8: Shell, model: Path, tmp_path: Path) -> None:
    data, ranges, fp8 = tmp_path / "data.npz", tmp_path / "ranges.json", tmp_path / "model.fp8.onnx"
    assert calib8("calibrate", model, "--data", data, "-o", ranges)[0] == 0
    code, out, err = calib8("quantize", model, "--ranges", ranges, "--precision", "fp8", "-o", fp8, "-q")
    assert (code, out, err) == (0, f"{fp8}: 4 of 4 weighted ops in FP8\n", "")
    stored = [value.const_value.numpy().dtype for value in ir.load(fp8).graph.initializers.values()]
    assert stored.count(np.dtype(ml_dtypes.float8_e4m3fn)) == 4 + 4 + 4  # weights, their zero points, and activations'
    assert np.dtype(np.int8) not in stored
    code, out, _ = calib8("inspect", fp8)
    assert code == 0
    assert "4 Q, 8 DQ, FP8" in out
    code, out, _ = calib8("verify", model, fp8, "--data", data, "--min-cosine", "0.99", "-q")
    assert code == 0
    code, out, _ = calib8("sensitivity", model, "--data", data, "--precision", "fp8", "--samples", "4", "-q")
    assert code == 0
    assert "with all in FP8" in out


def test_an_int8_table_is_refused(calib8: Shell, model: Path, tmp_path: Path) -> None:
    out, fp8 = tmp_path / "out", ("--precision", "fp8", "--int8-embedding")
    code, _, err = calib8("convert", model, "--data", tmp_path / "data.npz", *fp8, "-o", out)
    assert (code, err) == (2, "error: got --int8-embedding True, expected False.\n")
    assert not out.exists()


def test_latency_is_refused(calib8: Shell, model: Path, tmp_path: Path) -> None:
    given = ("--precision", "fp8", "--optimize", "latency", "-o", tmp_path / "out")
    code, _, err = calib8("convert", model, "--data", tmp_path / "data.npz", *given)
    assert code == 2
    assert err.startswith("error: got --optimize 'latency', expected accuracy: nothing stands between an op and its Q")
