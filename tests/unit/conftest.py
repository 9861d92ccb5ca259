"""What unit tests share."""

import pytest
from shell import Shell


@pytest.fixture
def calib8(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)
