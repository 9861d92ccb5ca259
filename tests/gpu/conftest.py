"""What the tests on a GPU share: a device, engines that stand in for TensorRT's, a check for leaks, measurements.

Run them on a machine with a GPU: ``python -m pytest tests/gpu -s``. With ``CALIB8_MEASURED=file`` the measurements are
written to that file, too.
"""

import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calib8.gpu.hardware import gpus

_measured: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not gpus():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: nvidia-smi finds none"))


def pytest_terminal_summary(terminalreporter) -> None:
    if _measured:
        text = "\n".join([f"{', '.join(gpu.name for gpu in gpus())}, Python {platform.python_version()}", *_measured])
        terminalreporter.write_line(text)
        if path := os.environ.get("CALIB8_MEASURED"):
            Path(path).write_text(text + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Takes a line for the summary."""
    return _measured.append


@pytest.fixture
def device() -> Iterator[object]:
    from calib8.gpu.device import Device

    opened = Device()
    yield opened
    opened.close()


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    from standin import Workshop

    made = Workshop(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    return made


@pytest.fixture
def leaks_nothing(device) -> Callable[[Callable[[], None]], None]:
    """Asserts that repeating something takes no memory of the GPU.

    What CUDA takes once and keeps (context, kernels, room for graphs) is taken in the first rounds; what is not given
    back is missing after every round.
    """

    def check(work: Callable[[], None]) -> None:
        def free() -> int:
            gc.collect()
            return int(device.free_bytes())

        work()
        missing = []
        for _ in range(4):
            before = free()
            work()
            missing.append(before - free())
        assert 0 in missing, f"bytes that each round did not give back: {missing}"

    return check
