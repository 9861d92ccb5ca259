"""Ctrl-C in a process of its own, sent to all of its processes: 130, one line, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.testing import tiny_encoder, token_feeds

NOTHING = "interrupted; nothing half-written was left behind"
KEPT = "interrupted; what was done is kept in {}: run the same command again to go on"
#: Runs ``calib8`` and presses Ctrl-C as soon as some of a stage is done.
AT_STAGE = """
import os, signal, sys
from calib8.__main__ import main
from calib8.console import ConsoleProgress

draw, stage = ConsoleProgress.update, sys.argv.pop(1)

def update(self, name, done, total):
    draw(self, name, done, total)
    if name == stage and done:
        os.killpg(0, signal.SIGINT)

ConsoleProgress.update = update
main()
"""
#: The same while the commands are loaded.
AT_IMPORT = """
import signal, sys
from calib8.__main__ import main

class Interrupts:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
main()
"""


@pytest.fixture
def work(tokenizer_folder: Path) -> Path:
    """A folder with a model, its data and texts, and nothing else."""
    ir.save(tiny_encoder(), tokenizer_folder / "model.onnx")
    (data := tokenizer_folder / "data").mkdir()
    for name, array in token_feeds(*[8] * 400).items():
        np.save(data / f"{name}.npy", array)
    (tokenizer_folder / "texts.txt").write_text("a b c\n" * 400, encoding="utf-8")
    return tokenizer_folder


def interrupted(folder: Path, program: str, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout and the lines of stderr, in a session of its own so that Ctrl-C ends there."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120, start_new_session=True
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("stage", "kept", "command"),
    [
        ("calibrate", "r.json.unfinished", "calibrate model.onnx --data data -o r.json --cache calibration.cache"),
        ("minmax ranges", "r.json.unfinished", "calibrate model.onnx --data data -o r.json"),
        ("calibrate", "out/.calib8-unfinished", "convert model.onnx --data data -o out --no-engine"),
        ("quantize", "out/.calib8-unfinished", "convert model.onnx --data data -o out --no-engine"),
        ("verify", "", "convert model.onnx --data data -o out --no-engine"),
        ("embed", None, "embed model.onnx texts.txt -o vectors.npy --runtime onnxruntime"),
        ("run", None, "run model.onnx --data data -o outputs --runtime onnxruntime"),
    ],
)
def test_ctrl_c_while_it_works(work: Path, stage: str, kept: str | None, command: str) -> None:
    """``kept``: the folder of unfinished work, empty if all that was done by then is in files that stay, or None."""
    before, message = files(work), KEPT.format(kept) if kept else NOTHING
    code, out, err = interrupted(work, AT_STAGE, stage, *command.split(), "--json")
    assert (code, err[-1]) == (130, message)
    assert not any("Traceback" in line or "interrupted" in line for line in err[:-1]), "\n".join(err)
    assert json.loads(out) == {
        "format": "calib8.error/1", "error": "Interrupted", "message": message, "exit_code": 130
    }  # fmt: skip
    left = files(work) - before
    assert bool(left) == (kept is not None)
    assert not [name for name in left if name.endswith(".part")]
    if kept is not None:
        code, _, err = interrupted(work, AT_STAGE, "never", *command.split())
        assert code == 0
        assert any("going on where an earlier run stopped: " in line for line in err) == bool(kept)
        assert not list(work.rglob("*unfinished*"))


def test_ctrl_c_before_the_command_begins(work: Path) -> None:
    before = files(work)
    assert interrupted(work, AT_IMPORT, "doctor") == (130, "", ["interrupted"])
    assert files(work) == before
