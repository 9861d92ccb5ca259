"""What a person sees of long work: counts as counts, shares as per cent."""

import io

import pytest
from rich.console import Console

import calib8
from calib8.cli import console


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=terminal, width=100, highlight=False))
    with calib8.ConsoleProgress() as progress:
        progress.update("calibrate", 0, 56)
        progress.update("build for sm86", 0, 1)
        progress.update("calibrate", 56, 56)
        progress.update("build for sm86", 0.37, 1)
        if not terminal:
            progress.update("build for sm86", 1, 1)
    return stream.getvalue()


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, built = shown(monkeypatch, terminal=False).splitlines()
    assert counted.startswith("calibrate: 56 done in 0.")
    assert built.startswith("build for sm86: done in 0.")


def test_bars_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    assert "56/56" in text
    assert "37%" in text
    assert "/1 " not in text
