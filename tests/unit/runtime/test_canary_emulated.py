"""A CPU without VNNI, for real: emulated, with the same runtimes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calib8.runtime.canary import KINDS

QEMU = shutil.which("qemu-x86_64")


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed (Debian package qemu-user)")
def test_on_a_cpu_without_vnni_what_saturates_is_not_used(tmp_path: Path) -> None:
    """Haswell: AVX2, and no unit after it. ``/proc/cpuinfo`` still tells of the CPU that emulates it."""
    assert QEMU is not None
    run = subprocess.run(
        [QEMU, "-cpu", "Haswell", sys.executable, str(Path(__file__).parents[1] / "emulated.py")],
        env={**os.environ, "CALIB8_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert "AVX2" in found["units"]
    assert not [unit for unit in found["units"] if unit.startswith("AVX512")]
    assert found["vnni"] is not True
    assert found["openvino_s8"] == "MatMul gives 8160 where 1032256 is right"
    assert list(found["chosen"]) == list(KINDS)
    other = {"runtime": "onnxruntime", "form": "u8u8", "right": True}
    depthwise = {"runtime": "openvino", "form": "s8", "right": True}  # whose kernels add no two products in 16 bits
    for kind, one in found["chosen"].items():
        assert one == (depthwise if kind == "depthwise Conv" else other), kind
    for name, one in found["models"].items():
        assert one["error"] < 1e-3, name  # of a step of 4 / 127, which FP32 arithmetic tips now and then
        assert "u8 x u8 (inexact on this CPU: OpenVINO, s8 x s8; ONNX Runtime, u8 x s8)" in one["ran_in"]
