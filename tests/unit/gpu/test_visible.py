"""Which GPUs CUDA shows: the variables are its own, the numbers are not NVML's."""

import os
import sys
from pathlib import Path

import pytest
from fake_nvml import FakeGpu, FakeNvml

from calib8.cli.main import main
from calib8.cli.options import _use_device
from calib8.errors import ConfigError
from calib8.gpu import hardware, visible
from calib8.gpu import nvml as gpu
from calib8.gpu.hardware import Gpu, alone, gpus, numbered
from calib8.gpu.visible import only, shown

UUIDS = ["GPU-aa11", "GPU-bb22", "GPU-bb33"]


@pytest.mark.parametrize(
    ("named", "left"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("GPU-aa", [0]),
        ("GPU-bb33,0", [2, 0]),
        ("1,7,0", [1]),  # what names none ends the list
        ("GPU-zz,0", []),
        ("-1", []),
    ],
)
def test_what_is_left(named: str | None, left: list[int]) -> None:
    assert shown(UUIDS, {} if named is None else {"CUDA_VISIBLE_DEVICES": named}) == left


def test_one_of_them_alone() -> None:
    assert only(2, {}) == "2"
    assert only(1, {"CUDA_VISIBLE_DEVICES": "3,GPU-bb22"}) == "GPU-bb22"
    with pytest.raises(ConfigError, match=r"no GPU 2: CUDA_VISIBLE_DEVICES is '3,5'\. Count from 0 within that list"):
        only(2, {"CUDA_VISIBLE_DEVICES": "3, 5"})


def test_the_gpus_are_those_that_cuda_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [FakeGpu(uuid=uuid) for uuid in UUIDS]
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*cards))
    monkeypatch.setattr(hardware, "cuda_uuids", lambda: pytest.fail("all are alike: no reason to start CUDA"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-aa")
    assert [card.uuid for card in gpus()] == ["GPU-bb33", "GPU-aa11"]
    assert len(hardware.driver().gpus) == 3  # the machine has them all the same
    with gpu.opened() as nvml:
        assert [card.uuid for card in gpu.visible(nvml)] == ["GPU-bb33", "GPU-aa11"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == ()


def test_unlike_gpus_are_in_the_order_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default CUDA puts the fastest first, and its numbers follow; NVML counts by PCI bus."""
    slow, fast = FakeGpu(name="NVIDIA T4", uuid="GPU-aa"), FakeGpu(name="NVIDIA L40S", uuid="GPU-bb")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(slow, fast))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "cuda_uuids", lambda: ["GPU-bb", "GPU-aa"])
    assert [card.name for card in gpus()] == ["NVIDIA L40S", "NVIDIA T4"]
    monkeypatch.setattr(hardware, "cuda_uuids", lambda: ["GPU-bb"])  # of CUDA_VISIBLE_DEVICES=0
    assert [card.name for card in gpus()] == ["NVIDIA L40S"]
    for unknown in (None, ["MIG-cc"]):  # CUDA does not answer, or shows what NVML does not list
        monkeypatch.setattr(hardware, "cuda_uuids", lambda unknown=unknown: unknown)
        with pytest.warns(
            RuntimeWarning, match=r"unlike GPUs \(NVIDIA T4, NVIDIA L40S\), and nothing tells in which order"
        ):
            present = gpus()
        assert [card.name for card in present] == ["NVIDIA T4", "NVIDIA L40S"]
        assert [alone(card, number) for number, card in enumerate(present)] == ["GPU-aa", "GPU-bb"]
    monkeypatch.setattr(hardware, "cuda_uuids", lambda: pytest.fail("CUDA was told to count by PCI bus"))
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert [card.name for card in gpus()] == ["NVIDIA T4", "NVIDIA L40S"]
    assert alone(gpus()[1], 1) == "1"
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb,GPU-aa")  # which leaves nothing to count
    assert [card.name for card in gpus()] == ["NVIDIA L40S", "NVIDIA T4"]


def test_a_number_that_cuda_does_not_confirm_becomes_a_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVML calls number 1 is what CUDA then shows, whatever its own order."""
    slow, fast = FakeGpu(name="NVIDIA T4", uuid="GPU-aa"), FakeGpu(name="NVIDIA L40S", uuid="GPU-bb")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(slow, fast))
    monkeypatch.setattr(hardware, "cuda_uuids", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    with pytest.warns(RuntimeWarning, match="Counted by PCI bus here; in other programs a number may mean another GPU"):
        assert _use_device(1) == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-aa"
    assert [card.name for card in gpus()] == ["NVIDIA T4"]


def test_nvidia_smi_is_read_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    line = "570.1, 8.9, 23034, 22563, {}, NVIDIA L4"
    found = hardware.parse("\n".join(line.format(uuid) for uuid in ("GPU-aa", "GPU-bb")))
    assert (len(found.gpus), found.shown) == (2, (1,))


def test_cuda_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it has no GPU to tell of, or no driver; what counts is that this process stays without CUDA."""
    answer = '["GPU-aa"]'
    monkeypatch.setattr(visible, "CHILD", f"print('''{answer}''')")
    assert visible.cuda_uuids() == ["GPU-aa"]
    monkeypatch.setattr(visible, "CHILD", "raise SystemExit(1)")
    assert visible.cuda_uuids() is None
    monkeypatch.setattr(visible, "CHILD", "print('not json')")
    assert visible.cuda_uuids() is None


def test_the_child_reads_what_cuda_python_has() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    assert hasattr(cuda.cudaDeviceProp, "uuid")
    assert hasattr(cuda.cudaUUID_t, "bytes")


def test_a_number_too_large_is_told() -> None:
    assert numbered([Gpu("NVIDIA L4", "sm89")], 0).name == "NVIDIA L4"
    with pytest.raises(ConfigError, match=r"there is no GPU 1: CUDA shows 0 \(NVIDIA L4\)\. Choose another --device"):
        numbered([Gpu("NVIDIA L4", "sm89")], 1)


def test_the_command_line_leaves_itself_one_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*(FakeGpu(uuid=uuid) for uuid in UUIDS)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    arguments = ["calib8", "run", str(tmp_path / "x.engine"), "--data", str(tmp_path), "-o", str(tmp_path / "out")]
    assert ends(monkeypatch, *arguments, "--device", "2") == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,0"  # there is no such number
    assert ends(monkeypatch, *arguments, "--device", "1") == 2  # there is no such engine
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert [card.uuid for card in gpus()] == ["GPU-aa11"]


def ends(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", list(arguments))
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code
