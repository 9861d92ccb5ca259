"""The GPU that is asked for, of one or several, and what a caller finds of his own choice afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import build, write_encoder

import calib8
from calib8.engine.sidecar import describe_engine, sidecar_path
from calib8.errors import BuildError, ConfigError, SetupError
from calib8.gpu.device import Device
from calib8.gpu.hardware import driver, gpus
from calib8.gpu.monitor import Monitor
from calib8.gpu.visible import cuda_uuids

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")
ALL = len(gpus())
several = pytest.mark.skipif(ALL < 2, reason=f"needs two GPUs, there are {ALL}")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    return build(write_encoder(folder), folder / "fp16.engine", precision="fp16")


def feeds(engine: Path) -> dict[str, np.ndarray]:
    return {name: array[:4, :17] for name, array in np.load(engine.parent / "data.npz", allow_pickle=False).items()}


def current() -> int:
    from cuda.bindings import runtime as cuda

    return int(cuda.cudaGetDevice()[1])


def test_cuda_and_nvml_name_the_same_gpus() -> None:
    assert cuda_uuids() == [gpu.uuid for gpu in gpus()]


def test_the_sidecar_names_the_gpu(engine: Path) -> None:
    assert describe_engine(engine).gpu == gpus()[0].name


def test_the_caller_keeps_the_gpu_that_was_current(engine: Path) -> None:
    own = Device(number=ALL - 1)
    own.use()
    with calib8.open(engine, device=0, cuda_graphs=0) as runtime:
        assert current() == ALL - 1
        runtime.run(feeds(engine))
        assert current() == ALL - 1
    assert current() == ALL - 1
    own.close()
    Device(number=0).use()


@several
def test_it_builds_and_runs_on_the_second(engine: Path, tmp_path: Path) -> None:
    second = build(write_encoder(tmp_path), tmp_path / "x.engine", precision="fp16", device=1)
    assert describe_engine(second).gpu == gpus()[1].name
    free = [Device(number=number) for number in (0, 1)]
    for device in free:
        device.use()
        device.free_bytes()  # makes the context
    with calib8.open(second, device=1, cuda_graphs=0) as runtime, calib8.open(engine, device=0, cuda_graphs=0) as first:
        given = feeds(engine)
        for name, array in runtime.run(given).items():
            np.testing.assert_allclose(array, first.run(given)[name], atol=0.02)
        assert runtime.description.endswith(gpus()[1].name)


@several
def test_the_monitor_watches_what_the_variable_leaves(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", driver().gpus[1].uuid)
    with Monitor() as watched:
        assert watched._nvml.nvmlDeviceGetUUID(watched._handle) == driver().gpus[1].uuid


@pytest.mark.parametrize("named", ["", "uuid"])
def test_cuda_visible_devices_is_respected(named: str, engine: Path) -> None:
    visible = gpus()[-1].uuid if named else ""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    command = [sys.executable, "-m", "calib8", "run", str(engine), "--data", str(engine.parent / "data.npz"), "-q"]
    answer = subprocess.run(
        [*command, "-o", str(engine.parent / f"out-{named}")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if named:
        assert answer.returncode == 0, answer.stderr
    else:
        assert answer.returncode == 2
        assert "this machine has no NVIDIA GPU" in answer.stderr


def test_the_command_line_takes_a_number(engine: Path, tmp_path: Path) -> None:
    def run(device: int) -> subprocess.CompletedProcess[str]:
        options = [
            "--data",
            str(engine.parent / "data.npz"),
            "-o",
            str(tmp_path / str(device)),
            "--device",
            str(device),
        ]
        command = [sys.executable, "-m", "calib8", "run", str(engine), *options, "-q"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    answer = run(ALL - 1)
    assert answer.returncode == 0, answer.stderr
    answer = run(ALL)
    assert answer.returncode == 2
    assert f"there is no GPU {ALL}: CUDA shows 0 ({gpus()[0].name})" in answer.stderr
    with pytest.raises(ConfigError, match=f"there is no GPU {ALL}"):
        calib8.open(engine, device=ALL)


def test_an_engine_of_another_model_of_gpu_gets_a_note(engine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "x.engine"
    copy.write_bytes(engine.read_bytes())
    told = json.loads(sidecar_path(engine).read_text())
    sidecar_path(copy).write_text(json.dumps({**told, "gpu": "NVIDIA H100 80GB HBM3"}))
    with pytest.warns(RuntimeWarning, match=r"built on NVIDIA H100 80GB HBM3, and this is "):
        calib8.open(copy).close()


def test_the_code_of_a_version_compatible_engine_runs_only_if_allowed(tmp_path: Path) -> None:
    model = write_encoder(tmp_path)
    try:
        engine = build(model, tmp_path / "x.engine", precision="fp16", version_compatible=True)
    except BuildError as error:
        if "libnvinfer_lean" in str(error):
            pytest.skip(f"needs the lean runtime beside TensorRT, which a version-compatible engine brings: {error}")
        raise
    with pytest.raises(SetupError, match="brings the runtime that it was built for"):
        calib8.open(engine)
    with calib8.open(engine, host_code=True) as runtime:
        runtime.run(feeds(engine))
    told = json.loads(sidecar_path(engine).read_text())
    sidecar_path(engine).write_text(json.dumps({**told, "version_compatible": False}))  # a lie
    with pytest.raises(SetupError, match="TensorRT could not load the engine"):
        calib8.open(engine)
