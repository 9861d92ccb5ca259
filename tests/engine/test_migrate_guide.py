"""The commands of docs/migrate.md, as they stand there, on a small CNN."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.testing import GraphBuilder
from tensorrt_cache import tensorrt_cache

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

GUIDE = Path(__file__).parents[2] / "docs" / "migrate.md"


def convnet() -> ir.Model:
    """``images`` [batch, 3, 64, 64] -> two Convs -> mean -> Gemm -> ``y`` [batch, 16]."""
    g = GraphBuilder()
    x = g.input("images", ir.DataType.FLOAT, "batch", 3, 64, 64)
    for name, *shape in (("stem", 32, 3, 3, 3), ("body", 64, 32, 3, 3)):
        x = g.op("Relu", g.op("Conv", x, g.weight(f"{name}.weight", *shape), name=name, strides=[2, 2]))
    x = g.op("Flatten", g.op("GlobalAveragePool", x, name="pool"), name="flat")
    return g.model(y=g.op("Gemm", x, g.weight("head.weight", 64, 16), name="head"))


def test_every_command_runs(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(48, 3, 64, 64)).astype(np.float32)
    ir.save(convnet(), tmp_path / "model.onnx")
    (tmp_path / "calib_data").mkdir()
    np.save(tmp_path / "calib_data" / "images.npy", images[:32])
    np.savez(tmp_path / "held_out.npz", images=images[32:])
    cache = tensorrt_cache(tmp_path / "model.onnx", {"images": images[:32]})
    cache = re.sub("flat_out: .*\n", "", cache)  # as TensorRT often does
    (tmp_path / "calibration.cache").write_text(cache)
    commands = re.findall(r"^    (calib8 .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 7
    printed = ""
    for command in commands:
        program = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    shown = re.search(r"```text\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert printed.startswith(shown[1])
    for name in ("old.cache", "moved.cache"):
        assert (tmp_path / name).read_text() == cache.replace("TRT-8601", "TRT-101300")
    assert (tmp_path / "new.cache").read_text().startswith("TRT-101300-EntropyCalibration2\nimages: ")
