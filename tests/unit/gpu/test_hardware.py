"""The driver and its GPUs, through NVML or nvidia-smi, and on machines where either is broken."""

import sys
from pathlib import Path

import pynvml
import pytest
from fake_nvml import GIB, Code, FakeGpu, FakeNvml

from calib8.gpu import hardware
from calib8.gpu.hardware import MIB, Driver, Gpu, cuda_version, driver, gpus, parse

L4 = Gpu("NVIDIA L4", "sm89")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a script in the place of nvidia-smi."""

    def put(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(hardware.shutil, "which", lambda name: str(program))

    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    return put


def test_nvml_tells_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (FakeGpu(name="NVIDIA H100 MIG 1g.10gb"), FakeGpu(name="NVIDIA H100 MIG 2g.20gb"))
    h100 = FakeGpu(name="NVIDIA H100", capability=(9, 0), total=80 * GIB, used=GIB, mig=parts)
    shy = FakeGpu(total=Code(pynvml.NVML_ERROR_NO_PERMISSION))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(h100, shy, cuda=12080))
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    found = driver()
    assert (found.version, found.cuda, found.problem) == ("580.65.06", "12.8", None)
    assert found.gpus == (Gpu("NVIDIA H100", "sm90", mig=tuple(part.name for part in parts)), L4)
    assert (found.gpus[0].memory_total_bytes, found.gpus[0].memory_free_bytes) == (80 * GIB, 79 * GIB)
    assert found.gpus[1].memory_total_bytes is None
    assert gpus() == found.gpus


def test_nvml_that_fails_half_way_leaves_it_to_nvidia_smi(monkeypatch, nvidia_smi) -> None:
    nvidia_smi("echo '580.65.06, 8.9, 23034, 22563, GPU-aa, NVIDIA L4'")
    double = FakeNvml(FakeGpu(capability=Code(pynvml.NVML_ERROR_UNKNOWN)))
    monkeypatch.setitem(sys.modules, "pynvml", double)
    assert driver() == Driver("580.65.06", None, (L4,))
    assert double.open == 0


def test_without_the_drivers_cuda_the_gpu_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(FakeGpu(), cuda=Code(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)))
    assert driver() == Driver("580.65.06", None, (L4,))


def test_neither_is_there(monkeypatch, nvidia_smi) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    assert gpus() == ()
    assert "pip install '.[monitor]'" in (driver().problem or "")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=Code(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)))
    assert "no NVIDIA driver answers here (NVML: NVML Shared Library Not Found)" in (driver().problem or "")


def test_nvidia_smi_without_a_driver(nvidia_smi) -> None:
    nvidia_smi("echo NVIDIA-SMI has failed because it could not talk to the driver.; echo; exit 9")
    assert driver() == Driver(
        problem="nvidia-smi fails (code 9): NVIDIA-SMI has failed because it could not talk to the driver."
    )
    nvidia_smi("echo No devices were found")
    assert driver().problem == "nvidia-smi names no GPU: 'No devices were found'"
    nvidia_smi("exec /no/such/interpreter")
    assert (driver().problem or "").startswith("nvidia-smi fails (code 12")
    assert gpus() == ()


def test_what_nvidia_smi_prints_is_read() -> None:
    found = parse(
        "570.1, 8.6, 23028, 22000, GPU-aa, NVIDIA A10\n570.1, 12.0, [N/A], [N/A], GPU-bb, NVIDIA RTX PRO 6000, Max-Q\n"
    )
    assert found == Driver("570.1", None, (Gpu("NVIDIA A10", "sm86"), Gpu("NVIDIA RTX PRO 6000, Max-Q", "sm120")))
    assert (found.gpus[0].memory_total_bytes, found.gpus[0].memory_free_bytes) == (23028 * MIB, 22000 * MIB)
    assert found.gpus[1].memory_total_bytes is None


def test_versions_of_cuda() -> None:
    assert [cuda_version(number) for number in (13000, 12080, 12040, 0)] == ["13.0", "12.8", "12.4", None]
