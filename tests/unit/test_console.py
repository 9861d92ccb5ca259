"""What a person sees of long work: counts as counts, shares as per cent."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from rich.console import Console

import calib8
from calib8 import console


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


def test_rates_count_what_this_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 of 100 samples, 20 of them by an earlier run, in 40 s: one a second, and 40 s to go.

    The first line comes after a second, the next after 5 s, further ones 30 s apart.
    """
    stream, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(console, "err", Console(file=stream, width=100, highlight=False))
    monkeypatch.setattr(console, "FIRST", 1.0)
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    with calib8.ConsoleProgress() as progress:
        for seconds, done in ((0, 20), (4, 25), (6, 30), (29, 50), (1, 60), (29, 80), (11, 100)):
            now[0] += seconds
            progress.update("calibrate", done, 100)
        progress.update("search", 0, None)
        now[0] += 40
        progress.update("search", 12_000, None)
        progress.update("build", 0, 1)
        now[0] += 900
        progress.update("build", 0.1, 1)
    assert stream.getvalue().splitlines() == [
        "calibrate: 25 of 100, 1.2/s, 60 s left",
        "calibrate: 30 of 100, 1/s, 70 s left",
        "calibrate: 60 of 100, 1/s, 40 s left",
        "calibrate: 100 done in 80.0 s, 1/s",
        "search: 12.0k, 300/s",
        "build: 10%, 2.2 h left",
    ]


def until(found: Callable[[], bool]) -> None:
    for _ in range(600):
        if found():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


def test_work_that_tells_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """From before the first stage on; input that is waited for is no work."""
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, width=100, highlight=False))
    monkeypatch.setattr(console, "FIRST", 0.01)
    with calib8.ConsoleProgress() as progress:
        until(lambda: bool(stream.getvalue()))
        progress.update("embed", 0, None)
        progress.update("calibrate", 0, 56)
        until(lambda: "calibrate" in stream.getvalue())
        progress.update("calibrate", 56, 56)
    first, begun, done = stream.getvalue().splitlines()
    assert (first, begun) == ("get ready ...", "calibrate: 0 of 56")
    assert done.startswith("calibrate: 56 done in ")


def test_what_is_over_at_once_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, width=100, highlight=False))
    with calib8.ConsoleProgress() as progress:
        progress.note("a note")
    assert stream.getvalue() == "a note\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.254, "0.25"), (4.23, "4.2"), (7, "7"), (950.4, "950"), (9999, "9999"), (12_345, "12.3k"), (449e6, "449M")],
)
def test_numbers_stay_short(number: float, text: str) -> None:
    assert console._short(number) == text


STEPS = """
import sys, time
from calib8.console import ConsoleProgress, err
with ConsoleProgress() as progress:
    progress.note("a note " * 20)
    for done in range(0, 438_000_001, 43_800_000):
        progress.update("download of a large file", done, 438_000_000)
        progress.update("sensitivity again", done / 438_000_000, 1)
        time.sleep(0.05)
    err.print("red", style="red")
"""


def terminal(**environment: str) -> str:
    """What ``STEPS`` writes into a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    kept |= {"TERM": "xterm-256color", "COLUMNS": "80"} | environment
    process = subprocess.Popen([sys.executable, "-c", STEPS], stderr=theirs, stdout=theirs, env=kept)
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            text += os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
    os.close(ours)
    assert process.wait(60) == 0
    return text.decode()


def test_a_terminal_shows_rates_in_80_columns_and_colour_unless_it_is_unwanted() -> None:
    coloured, plain = terminal(), terminal(NO_COLOR="1")
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", coloured)
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]\b", plain)
    bars = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]+", plain)]
    bars = [bar for bar in bars if bar.startswith("download")]
    assert any(re.search(r"M/438M +[0-9.]+M/s +0:00:0\d +0:00:0\d", bar) for bar in bars)
    assert max(map(len, bars)) <= 80
