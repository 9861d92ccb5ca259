"""``--log FILE``: what a command tells while it works, in a file, whoever looks at the terminal."""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import typer
from shell import Shell

from calib8 import console
from calib8.cli.main import app
from calib8.testing import tiny_encoder, token_feeds

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture
def calibrate(calib8: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The command line of a calibration, in whose folder the test is."""

    ir.save(tiny_encoder(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **token_feeds(*[3] * 8))
    monkeypatch.chdir(tmp_path)
    return ("calibrate", "model.onnx", "--data", "data.npz")


def test_what_is_told_is_in_the_log_with_times(calib8: Shell, calibrate: tuple[object, ...], tmp_path: Path) -> None:
    code, out, err = calib8(*calibrate, "--log", "logs/run.log")
    assert (code, out) == (0, "ranges.json: 4 tensors from 8 samples\n")
    first, *rest = (tmp_path / "logs" / "run.log").read_text().splitlines()
    assert re.fullmatch(f"{TIME}calib8 calibrate model.onnx --data data.npz --log logs/run.log", first)
    assert [re.sub(TIME, "", line) for line in rest] == [*err.splitlines(), out.rstrip()]
    assert all(re.match(TIME, line) for line in rest)


def test_a_log_goes_on_and_keeps_what_nobody_saw(calib8: Shell, calibrate: tuple[object, ...], tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert calib8(*calibrate, "--log", log, "--quiet", "--json")[2] == ""
    text = log.read_text()
    assert re.search(r"calibrate: 8 done in .* s\n", text)
    assert "ranges.json: 4 tensors from 8 samples\n" in text  # stdout had a document
    code, _, err = calib8(*calibrate, "--log", log, "--observer", "percentile", "--percentile", "0")
    assert code == 2
    more = log.read_text()
    assert more.startswith(text)
    assert re.sub(TIME, "", more[len(text) :].splitlines()[-1]) == err.splitlines()[-1]
    assert not console.log.kept  # the next command of this process has its own, or none


def test_what_tells_how_far_it_is_can_be_asked_for_a_log() -> None:
    options = {verb: {option for one in command.params for option in one.opts} for verb, command in COMMANDS.items()}
    assert [verb for verb in options if "--log" in options[verb]] == [
        verb for verb in options if "--quiet" in options[verb]
    ]
    assert {"convert", "fetch", "calibrate", "quantize", "build", "verify", "bench", "embed", "serve", "tune"} <= {
        verb for verb in options if "--log" in options[verb]
    }


def test_nothing_in_a_log_commands_whoever_looks_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = console.Log()
    monkeypatch.setattr(console, "log", log)
    log.begin(tmp_path / "run.log")
    console.err.print("a\x1b]0;title\x07b\nc")
    log.close()
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    assert line.endswith(r" a\x1b]0;title\x07b\nc")


def test_a_log_that_cannot_grow_ends_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = console.Log()
    monkeypatch.setattr(console, "log", log)
    log.begin(Path("/dev/full"))
    console.err.print("one line")
    console.err.print("another")
    assert capsys.readouterr().err == "one line\nwarning: the log ends here: No space left on device\nanother\n"
