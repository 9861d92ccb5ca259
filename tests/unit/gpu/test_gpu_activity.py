"""The GPU watched through a double of NVML whose calls are checked against the real nvidia-ml-py."""

import io
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pynvml
import pytest
from fake_nvml import GIB, Code, FakeGpu, FakeNvml, busy, process
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from shell import Shell

import calib8 as package
from calib8.errors import SetupError
from calib8.gpu import nvml
from calib8.gpu.activity import Activity, Sample, Timeline
from calib8.gpu.monitor import Monitor, watched
from calib8.report.sections.activity import BLOCKS, QUANTITIES, activity_section, sparkline
from calib8.report.terminal import render
from calib8.testing import tiny_mlp

QUICK = 0.001


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Put a machine with these GPUs in NVML's place."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(*gpus: FakeGpu, **told: object) -> FakeNvml:
        double = FakeNvml(*gpus, **told)
        monkeypatch.setitem(sys.modules, "pynvml", double)
        return double

    return put


def watch_until(monitor: Monitor, done) -> Activity:
    """Watch until ``done()``, for ten seconds at most."""
    end = time.monotonic() + 10
    with monitor:
        while not done() and time.monotonic() < end:
            time.sleep(QUICK)
    return monitor.activity


def test_the_double_takes_no_call_that_nvml_would_not() -> None:
    double = FakeNvml(FakeGpu())
    with pytest.raises(AttributeError):
        double.nvmlDeviceGetWattage  # noqa: B018
    with pytest.raises(TypeError, match="missing a required argument"):
        double.nvmlDeviceGetName()
    with pytest.raises(AssertionError, match="before nvmlInit"):
        double.nvmlDeviceGetCount()


def test_every_quantity_arrives_in_its_unit(install) -> None:
    own = [process(3 * GIB), process(GIB, pid=2**22 + 1)]
    double = install(FakeGpu(processes=own, busy=[busy(20, 1), busy(35, 2), busy(90, 3, pid=2**22 + 1)]))
    activity = watch_until(Monitor(interval_seconds=QUICK), lambda: double.called.count("nvmlDeviceGetPowerUsage") > 5)
    assert (activity.device, activity.target, activity.driver) == ("NVIDIA L4", "sm89", "580.65.06")
    assert activity.memory_total_bytes == 24 * GIB
    assert activity.samples[3].quantities() == {
        "gpu_utilisation_percent": 40, "memory_utilisation_percent": 10, "memory_used_bytes": 2 * GIB,
        "power_watts": 30.5, "temperature_celsius": 45, "sm_clock_mhz": 1500, "memory_clock_mhz": 6000,
        "process_utilisation_percent": 35, "process_memory_bytes": 3 * GIB,
    }  # fmt: skip
    assert activity.lost is None
    assert double.open == 0
    assert activity.readings == len(activity.samples) >= 6
    assert [thread for thread in threading.enumerate() if thread.name == "calib8 monitor"] == []


def test_what_a_gpu_does_not_tell_is_left_out(install) -> None:
    no = Code(pynvml.NVML_ERROR_NOT_SUPPORTED)
    divided = FakeGpu(utilisation=no, total=Code(pynvml.NVML_ERROR_NO_PERMISSION), clocks=no, celsius=50)
    install(divided)
    with Monitor(interval_seconds=QUICK) as monitor:
        pass
    assert monitor.activity.memory_total_bytes is None
    assert set(monitor.activity.summary) == {"power_watts", "temperature_celsius"}


def test_temperature_of_an_old_driver(install) -> None:
    install(FakeGpu(celsius=Code(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND), old_celsius=61))
    with Monitor(interval_seconds=QUICK) as monitor:
        pass
    assert monitor.activity.summary["temperature_celsius"].max == 61


def test_a_gpu_that_is_lost_stops_nothing_and_is_told(install) -> None:
    gpu = FakeGpu()
    double = install(gpu)
    lost, worked = Code(pynvml.NVML_ERROR_GPU_IS_LOST), []
    with Monitor(interval_seconds=QUICK) as monitor:
        for name in ("utilisation", "total", "milliwatts", "celsius", "clocks", "processes", "busy"):
            setattr(gpu, name, lost)
        while monitor._thread.is_alive():
            time.sleep(QUICK)
        worked.append("to the end")
    assert worked == ["to the end"]
    assert "s: the GPU does not answer (NVML: GPU is lost)" in (monitor.activity.lost or "")
    assert monitor.activity.summary["power_watts"].mean == 30.5  # from before
    assert double.open == 0


def test_a_driver_that_hangs_holds_up_the_end_for_a_while_only(install, monkeypatch: pytest.MonkeyPatch) -> None:
    hung, release = threading.Event(), threading.Event()
    gpu = FakeGpu()
    double = install(gpu)
    monkeypatch.setattr("calib8.gpu.monitor.PATIENCE_SECONDS", 0.05)

    def hang() -> int:
        hung.set()
        release.wait(10)
        return 1000

    with Monitor(interval_seconds=QUICK) as monitor:
        gpu.milliwatts = hang
        assert hung.wait(10)
    assert "the driver hangs" in (monitor.activity.lost or "")
    assert double.open == 1  # closing NVML under a call of its own would crash
    release.set()
    monitor._thread.join(10)


def test_an_error_of_the_work_ends_the_watch_and_goes_on(install) -> None:
    double = install(FakeGpu())
    with pytest.raises(ZeroDivisionError), Monitor(interval_seconds=QUICK):
        1 / 0  # noqa: B018
    assert double.open == 0
    assert [thread for thread in threading.enumerate() if thread.name == "calib8 monitor"] == []


@pytest.mark.parametrize(
    ("gpus", "told", "message"),
    [
        ((), {"driver": Code(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)}, r"no NVIDIA driver answers here \(NVML: Driver"),
        ((), {}, "there is no GPU to watch: .* leave none"),
        ((FakeGpu(),), {}, "there is no sm90 GPU to watch: .* leave sm89"),
        ((FakeGpu(capability=Code(pynvml.NVML_ERROR_GPU_IS_LOST)),), {}, r"cannot be watched \(NVML: GPU is lost\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_watched_is_told_before_the_work(install, gpus, told, message) -> None:
    double = install(*gpus, **told)
    with pytest.raises(SetupError, match=message), Monitor("sm90" if gpus else None):
        pytest.fail("the work began")
    assert double.open == 0


def test_a_silent_gpu_and_a_missing_package_are_told_before_the_work(install, monkeypatch) -> None:
    no = Code(pynvml.NVML_ERROR_UNKNOWN)
    double = install(FakeGpu(utilisation=no, total=no, milliwatts=no, celsius=no, clocks=no, processes=no, busy=no))
    with pytest.raises(SetupError, match=r"does not answer \(NVML: Unknown Error\)"), Monitor():
        pytest.fail("the work began")
    assert double.open == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SetupError, match=r"pip install '\.\[monitor\]'"), Monitor():
        pytest.fail("the work began")


def test_nothing_is_watched_unless_wanted() -> None:
    with watched(False) as activity:
        pass
    assert activity() is None


def test_the_activity_is_there_after_the_block(install) -> None:
    install(FakeGpu())
    with watched(True, "sm89") as activity, pytest.raises(SetupError, match="Ask after the with block"):
        activity()
    assert activity() is not None
    with pytest.raises(SetupError, match="never was"):
        _ = package.Monitor().activity


A, B, C = FakeGpu(uuid="GPU-aa1"), FakeGpu(uuid="GPU-bb2"), FakeGpu(uuid="GPU-cc3", capability=(9, 0))


@pytest.mark.parametrize(
    ("named", "left"),
    [
        (None, [A, B, C]), ("1", [B]), ("2,0", [C, A]), ("GPU-bb", [B]), ("GPU-cc3, 0", [C, A]), ("", []), ("-1", []),
        ("0,7,1", [A]), ("GPU-zz,0", []),
    ],
)  # fmt: skip
def test_cuda_visible_devices_is_followed(install, named, left) -> None:
    double = install(A, B, C)
    double.nvmlInit()
    assert nvml.visible(double, {} if named is None else {"CUDA_VISIBLE_DEVICES": named}) == left


def test_the_gpu_of_the_engine_is_watched(install) -> None:
    install(A, C)
    with Monitor("sm90") as monitor:
        pass
    assert monitor.activity.target == "sm90"


def test_a_child_is_part_of_this_process_and_the_parent_is_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert nvml.is_own(child.pid)
    finally:
        child.communicate(b"\n")
    assert not nvml.is_own(1)
    assert not nvml.is_own(2**22 + 1)  # beyond the largest process id


@given(st.integers(2, 9), st.lists(st.floats(0, 100, allow_nan=False) | st.none(), max_size=200))
def test_memory_is_bounded_samples_are_even_and_the_summary_forgets_none(capacity: int, powers: list) -> None:
    timeline = Timeline(capacity)
    for second, power in enumerate(powers):
        timeline.add(Sample(seconds=second, power_watts=power))
        assert len(timeline.samples) <= capacity
    seconds = [sample.seconds for sample in timeline.samples]
    assert seconds == list(range(0, len(powers), timeline.kept_every))
    assert len(seconds) > capacity // 2 or timeline.kept_every == 1
    assert timeline.readings == len(powers)
    told = [power for power in powers if power is not None]
    summary = timeline.summary()
    assert set(summary) == ({"power_watts"} if told else set())
    if told:
        assert summary["power_watts"].max == max(told)
        assert summary["power_watts"].mean == pytest.approx(sum(told) / len(told))


def test_a_sparkline_by_hand() -> None:
    assert sparkline([0, 12.5, 13, 50, 100], 5, 100) == "▁▁▂▄█"
    assert sparkline([0, 100, 0, 0], 2, 100) == "█▁"  # a share shows its largest
    assert sparkline([None, 5], 8, 10) == " ▄"
    assert sparkline([0, 0], 2, 0) == "▁▁"
    assert sparkline([], 8, 10) == ""


@given(st.lists(st.floats(0, 1e6) | st.none(), min_size=1, max_size=100), st.integers(1, 40))
def test_a_sparkline_is_as_wide_as_it_may_be_and_shows_the_peak(values: list, width: int) -> None:
    top = max((value for value in values if value is not None), default=0)
    line = sparkline(values, width, top)
    assert len(line) == min(width, len(values))
    assert set(line) <= {*BLOCKS, " "}
    assert (BLOCKS[-1] in line) == (top > 0)


def test_the_table_fits_80_columns_and_names_every_unit(install) -> None:
    install(FakeGpu(name="NVIDIA H100 80GB HBM3", processes=[process(GIB)], busy=[busy(35, 2)]))
    with Monitor(interval_seconds=QUICK) as monitor:
        time.sleep(0.1)
    console = Console(width=80, record=True, file=io.StringIO())
    lost = monitor.activity.model_copy(update={"lost": "after 2.0 s: the driver hangs"})
    console.print(render(activity_section(lost)))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for label, unit, _, _ in QUANTITIES.values():
        assert any(label in line and unit in line for line in shown.splitlines()), label
    assert "the GPU was lost after 2.0 s: the driver hangs" in shown
    assert set(QUANTITIES) == set(Sample.model_fields) - {"seconds"}


def test_monitor_of_a_command_writes_beside_the_output(calib8: Shell, install, tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "mlp.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((3, 4), np.float32))
    arguments = ("run", tmp_path / "mlp.onnx", "--data", tmp_path / "data.npz", "-o", tmp_path / "out", "--monitor")
    install()
    code, _, err = calib8(*arguments)
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert "there is no GPU to watch" in err
    install(FakeGpu())
    code, out, err = calib8(*arguments)
    assert code == 0, err
    assert "power" in out
    activity = Activity.model_validate_json((tmp_path / "out.activity.json").read_text())
    assert activity.summary["power_watts"].max == 30.5
    code, out, _ = calib8("inspect", tmp_path / "out.activity.json")
    assert code == 0
    assert re.search(rf"^samples +{len(activity.samples)}$", out, re.MULTILINE)
    assert "--monitor keeps its timeline" in calib8("embed", tmp_path / "mlp.onnx", "--monitor")[2]


def test_convert_keeps_the_activity_in_its_report(calib8: Shell, install, tmp_path: Path) -> None:
    ir.save(tiny_mlp(), tmp_path / "mlp.onnx")
    samples = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=samples)
    install(FakeGpu())
    arguments = ("convert", tmp_path / "mlp.onnx", "--data", tmp_path / "data.npz", "--no-engine", "--min-cosine", "0")
    code, out, err = calib8(*arguments, "-o", tmp_path / "out", "--monitor")
    assert code == 0, err
    assert "GPU busy" in out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["activity"]["device"] == "NVIDIA L4"
    install()
    assert calib8(*arguments, "-o", tmp_path / "out", "--monitor")[0] == 2
    assert (tmp_path / "out" / "report.json").is_file()  # nothing was begun, nothing is lost
    assert calib8(*arguments, "-o", tmp_path / "other")[0] == 0
    assert json.loads((tmp_path / "other" / "report.json").read_text())["activity"] is None
