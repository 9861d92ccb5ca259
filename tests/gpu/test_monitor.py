"""A real GPU watched through NVML while PyTorch, CuPy or cuda-python keeps it busy. Prints the timeline."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from statistics import mean
from typing import Any

import pytest

from calib8.gpu import hardware
from calib8.gpu.activity import Activity
from calib8.gpu.hardware import driver, gpus
from calib8.gpu.monitor import Monitor

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytestmark = [
    pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU: neither NVML nor nvidia-smi finds one"),
    pytest.mark.filterwarnings("ignore"),  # what PyTorch and CuPy warn of is not ours
]

GIB = 1 << 30
IDLE_SECONDS, BUSY_SECONDS = 2.0, 6.0
#: NVML averages power and utilisation over up to a second.
SETTLED_SECONDS = 2.0


def busy(seconds: float) -> str:
    """Hold 2 GiB and keep the GPU busy; says what did it."""
    for load in (torch_load, cupy_load, cuda_load):
        try:
            step, finish, name = load()
        except Exception as error:  # not installed, or without CUDA
            print(f"{load.__name__}: {type(error).__name__}: {error}")
            continue
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step()
        finish()
        return name
    pytest.fail("nothing could keep the GPU busy: install PyTorch with CUDA, CuPy or cuda-python")


Load = tuple[Callable[[], Any], Callable[[], Any], str]


def torch_load() -> Load:
    import torch

    held = torch.zeros(2 * GIB, dtype=torch.uint8, device="cuda")
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def step() -> None:
        for _ in range(20):
            torch.matmul(a, a)
        torch.cuda.synchronize()

    def finish() -> None:
        nonlocal held, a
        del held, a
        torch.cuda.empty_cache()

    return step, finish, f"PyTorch {torch.__version__}, FP16 matrix products"


def cupy_load() -> Load:
    import cupy

    held = cupy.zeros(2 * GIB, dtype=cupy.uint8)
    a = cupy.random.standard_normal((8192, 8192), dtype=cupy.float32)

    def step() -> None:
        for _ in range(5):
            a @ a
        cupy.cuda.Device().synchronize()

    def finish() -> None:
        nonlocal held, a
        del held, a
        cupy.get_default_memory_pool().free_all_blocks()

    return step, finish, f"CuPy {cupy.__version__}, FP32 matrix products"


def cuda_load() -> Load:
    from cuda.bindings import runtime as cuda

    def done(answer: tuple[Any, ...]) -> Any:
        assert answer[0] == cuda.cudaError_t.cudaSuccess, answer[0]
        return answer[-1]

    held = int(done(cuda.cudaMalloc(2 * GIB)))
    kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    def step() -> None:
        for _ in range(50):
            done(cuda.cudaMemcpy(held, held + GIB, GIB, kind))
        done(cuda.cudaDeviceSynchronize())

    return step, lambda: done(cuda.cudaFree(held)), "cuda-python, copies within the GPU"


def show(activity: Activity, capsys: pytest.CaptureFixture[str], title: str) -> None:
    with capsys.disabled():
        print(f"\n{title}")
        try:
            from rich.console import Console

            from calib8.report.sections.activity import activity_section
            from calib8.report.terminal import render
        except ImportError:  # without rich there is no table
            print(json.dumps({name: extent.model_dump() for name, extent in activity.summary.items()}, indent=2))
            return
        Console(width=80).print(render(activity_section(activity)))


def told(activity: Activity, field: str, start: float, end: float) -> list[float]:
    """What samples between two times say of ``field``."""
    values = [getattr(sample, field) for sample in activity.samples if start <= sample.seconds <= end]
    return [value for value in values if value is not None]


def test_utilisation_power_and_memory_rise_with_the_load(capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor() as monitor:
        start = time.perf_counter()
        time.sleep(IDLE_SECONDS)
        began = time.perf_counter() - start
        name = busy(BUSY_SECONDS)
        ended = time.perf_counter() - start
    activity = monitor.activity
    show(activity, capsys, f"idle for {IDLE_SECONDS:g} s, then {name}")
    assert activity.lost is None
    assert activity.device in [gpu.name for gpu in gpus()]
    assert activity.readings >= 30  # every 100 ms, unless the driver is slow
    settled = max(began, ended - BUSY_SECONDS + SETTLED_SECONDS)  # loading the library is no load
    idle, loaded = (0.0, began), (settled, ended)
    least = {"gpu_utilisation_percent": 30, "power_watts": 20, "memory_used_bytes": 1.5 * GIB}
    divided = any(gpu.mig for gpu in gpus())
    for field, rise in least.items():
        before, during = told(activity, field, *idle), told(activity, field, *loaded)
        if divided and not during:
            continue  # NVML does not tell that of a divided GPU
        assert before, field
        assert mean(during) >= mean(before) + rise, field
    if not divided:
        assert max(told(activity, "gpu_utilisation_percent", *loaded)) >= 80
        assert {"temperature_celsius", "sm_clock_mhz", "memory_clock_mhz"} <= set(activity.summary)
    if own := told(activity, "process_memory_bytes", *loaded):  # a container may not be told of its processes
        assert max(own) >= 2 * GIB
    assert [thread for thread in threading.enumerate() if thread.name == "calib8 monitor"] == []


def test_thinning_keeps_the_whole_time() -> None:
    with Monitor(interval_seconds=0.02, capacity=16) as monitor:
        time.sleep(1.5)
    activity = monitor.activity
    assert len(activity.samples) <= 16 < activity.readings
    assert activity.kept_every > 1
    assert activity.samples[0].seconds < 0.5 < activity.samples[-1].seconds


def test_nvml_and_nvidia_smi_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    by_nvml = driver()
    if hardware.shutil.which("nvidia-smi") is None:
        pytest.skip("nvidia-smi is not installed")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    by_smi = driver()
    assert by_nvml.problem is None
    assert by_smi.problem is None
    assert by_nvml.version == by_smi.version
    assert by_nvml.cuda is not None
    assert [(gpu.name, gpu.target) for gpu in by_nvml.gpus] == [(gpu.name, gpu.target) for gpu in by_smi.gpus]


def test_doctor_sees_the_gpu_and_makes_no_context(capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(interval_seconds=0.05) as monitor:
        code = "from calib8.diagnosis.doctor import doctor; print(doctor().model_dump_json())"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    show(monitor.activity, capsys, "calib8 doctor")
    found = json.loads(answer.stdout)
    assert [gpu["target"] for gpu in found["facts"]["driver"]["gpus"]] == [gpu.target for gpu in gpus()]
    works = {verdict["what"]: verdict["works"] for verdict in found["verdicts"]}
    assert works["watch the GPU, --monitor"]
    used = told(monitor.activity, "memory_used_bytes", 0, float("inf"))
    assert not used or max(used) - used[0] < 100 << 20  # a CUDA context takes more


def test_a_command_watches_the_gpu(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    for needed in ("onnxruntime", "typer", "rich"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    import numpy as np
    import onnx_ir as ir

    from calib8.testing import tiny_mlp

    ir.save(tiny_mlp(), tmp_path / "mlp.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((3, 4), np.float32))
    command = [sys.executable, "-m", "calib8", "run", tmp_path / "mlp.onnx", "--data", tmp_path / "data.npz"]
    command += ["-o", tmp_path / "out", "--monitor"]
    answer = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    activity = Activity.model_validate_json((tmp_path / "out.activity.json").read_text())
    assert activity.readings >= 2
    with capsys.disabled():
        print(f"\n{answer.stdout}")
