"""Pipes, devices and folders in the place of files: read, or refused with what to do; never waited for in silence."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from shell import Shell

import calib8 as calib8_library
from calib8.data.sources import NpyFolder
from calib8.errors import DataError, InputError, ModelError
from calib8.files import atomic, sha256_file, write_text
from calib8.testing import tiny_encoder, token_feeds

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this operating system has no named pipes")

SAVE = "Save what comes out of it to a file, and name that."


@pytest.fixture
def work(tokenizer_folder: Path) -> Path:
    """A folder with a model, data, text and a pipe of each name, into which nobody writes."""
    ir.save(tiny_encoder(), tokenizer_folder / "model.onnx")
    (data := tokenizer_folder / "data").mkdir()
    for name, array in token_feeds(*[8, 3] * 10).items():
        np.save(data / f"{name}.npy", array)
    (tokenizer_folder / "texts.txt").write_text("a b\n\nc\n", encoding="utf-8")
    for name in ("fifo", "fifo.txt", "fifo.npz", "fifo.onnx", "fifo.engine", "fifo.json", "fifo.cache", "fifo.npy"):
        os.mkfifo(tokenizer_folder / name)
    return tokenizer_folder


def shell(folder: Path, command: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """``command`` in bash, where ``calib8`` is this one."""
    if shutil.which("bash") is None:
        pytest.skip("bash, which has process substitution, is not installed")
    program = f'calib8() {{ "{sys.executable}" -m calib8 "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", program], cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    "texts",
    [
        "<(cat texts.txt)",
        "/dev/stdin",
        "-",
        "",
        "<(head -1 texts.txt) <(tail -n +2 texts.txt)",
        "late & sleep 3; cat texts.txt > late; wait",
    ],
)
def test_embed_reads_pipes(work: Path, texts: str) -> None:
    os.mkfifo(work / "late")
    done = shell(work, f"calib8 embed model.onnx --runtime onnxruntime {texts}", given="a b\n\nc\n")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["a b", "", "c"]


def test_a_pipe_that_nobody_writes_into_is_told(work: Path) -> None:
    command = [sys.executable, "-m", "calib8", "embed", "model.onnx", "fifo", "--runtime", "onnxruntime"]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = (line for line in process.stderr if line != "get ready ...\n")  # where the machine is slow
        assert next(told) == "waiting for fifo, a pipe into which nothing was written yet\n"
        with (work / "fifo").open("w") as writer:
            writer.write("a\n")
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(printed)["text"] == "a"


def test_prepare_reads_a_pipe_once(work: Path) -> None:
    done = shell(work, "calib8 prepare <(cat texts.txt) --tokenizer . -o made")
    assert done.returncode == 0, done.stderr
    assert np.load(work / "made" / "input_ids.npy").tolist() == [[1, 4, 5, 2], [1, 6, 2, 0]]
    assert [*json.loads((work / "made" / "calib_data.json").read_text())["texts"].values()] == [
        sha256_file(work / "texts.txt")
    ]


def test_the_key_of_a_server_may_come_from_a_pipe(work: Path) -> None:
    done = shell(work, "calib8 serve absent.onnx --api-key-file <(echo secret)")
    assert done.returncode == 2
    assert "absent.onnx" in done.stderr  # what is wrong is not the key
    assert "API key file not found" in shell(work, "calib8 serve absent.onnx --api-key-file nowhere").stderr


@pytest.mark.parametrize(
    "command",
    [
        "calibrate fifo.onnx --data data -o r.json",
        "calibrate model.onnx --data fifo -o r.json",
        "calibrate model.onnx --data fifo.txt -o r.json",
        "calibrate model.onnx --data fifo.npz -o r.json",
        "quantize model.onnx --ranges fifo.json -o x.onnx",
        "sensitivity model.onnx --data fifo",
        "build fifo.onnx -o x.engine",
        "run model.onnx --data fifo -o outputs",
        "run fifo.engine --data data -o outputs",
        "run fifo --data data -o outputs",
        "embed fifo.onnx texts.txt",
        "verify model.onnx model.onnx --data fifo.txt",
        "verify model.onnx model.onnx --data texts.txt --pairs fifo",
        "verify model.onnx fifo --data texts.txt",
        "bench model.onnx --data fifo.txt",
        "tune model.onnx --data fifo",
        "inspect fifo",
        "inspect fifo.npy",
        "convert model.onnx --data fifo -o out --no-engine",
        "convert model.onnx --data data --held-out fifo.txt -o out --no-engine",
        "migrate fifo.cache model.onnx -o x.onnx",
        "export-cache fifo.json -o x.cache",
        "export triton fifo.onnx -o out",
        "serve fifo.onnx",
    ],
)
def test_what_must_be_a_file_is_refused_at_once(
    calib8: Shell, work: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(work)
    before = {path.name for path in work.rglob("*")}
    code, out, told = calib8(*command.split())
    told = " ".join(told.split())
    assert (code, out) == (2, ""), told
    assert " is a pipe, expected a" in told
    assert told.endswith(SAVE)
    assert {path.name for path in work.rglob("*")} - before <= {"r.json.unfinished", "out"}


@pytest.mark.parametrize("command", ["calibrate model.onnx --data {}", "quantize model.onnx -o x.onnx --ranges {}"])
def test_process_substitution_is_refused_where_a_file_is_needed(work: Path, command: str) -> None:
    done = shell(work, f"calib8 {command.format('<(cat texts.txt)')}")
    assert done.returncode == 2
    assert " is a pipe, expected a" in done.stderr
    assert done.stderr.rstrip().endswith(SAVE)


@pytest.mark.parametrize(
    "command",
    [
        "calibrate model.onnx --data data -o fifo",
        "calibrate model.onnx --data data -o r.json --cache fifo",
        "quantize model.onnx --ranges ranges.json -o fifo",
        "quantize model.onnx --ranges ranges.json -o x.onnx --plan fifo",
        "embed model.onnx texts.txt -o fifo",
        "verify model.onnx model.onnx --data texts.txt -o fifo",
        "bench model.onnx --data texts.txt -o fifo",
        "sensitivity model.onnx --data data -o fifo",
        "build model.onnx -o fifo",
        "build model.onnx -o x.engine --tensorrt-log fifo",
        "calibrate model.onnx --data data --log fifo",
    ],
)
def test_no_output_takes_the_place_of_a_pipe(
    calib8: Shell, work: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(work)
    calib8_library.calibrate(work / "model.onnx", work / "data", output=work / "ranges.json")
    code, _, told = calib8(*command.split())
    assert code == 2
    assert "fifo is a pipe, expected the name of a file to write" in " ".join(told.split())
    assert stat.S_ISFIFO((work / "fifo").stat().st_mode)


def test_nothing_is_renamed_over_a_device(tmp_path: Path) -> None:
    (link := tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(InputError, match="null is a device, expected the name of a file to write"), atomic(link):
        pytest.fail("it was to be written")
    with pytest.raises(InputError, match="/dev/null is a device"):
        write_text(Path("/dev/null"), "x")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()


def test_pipes_within_folders_are_not_waited_for(work: Path) -> None:
    os.mkfifo(work / "data" / "pipe.npy")
    with pytest.raises(InputError, match="pipe.npy is a pipe, expected a file"):
        list(NpyFolder(work / "data").chunks())
    external = work / "external"
    external.mkdir()
    model = tiny_encoder(width=64)
    ir.save(model, external / "model.onnx", external_data="weights")
    assert (external / "weights").stat().st_size > 0
    (external / "weights").unlink()
    os.mkfifo(external / "weights")
    with pytest.raises(ModelError, match="weights"):
        calib8_library.load(external / "model.onnx")


def test_folders_and_devices_are_no_texts(calib8: Shell, work: Path) -> None:
    code, _, told = calib8("embed", work / "model.onnx", work / "data")
    assert code == 2
    assert "data is a folder, expected a file: text file" in told
    code, _, told = calib8("embed", work / "model.onnx", "/dev/null")
    assert code == 2
    assert "/dev/null: no line of text; expected one text a line" in told
    done = shell(work, "calib8 embed model.onnx <&-")
    assert done.returncode == 2
    assert "standard input is closed, expected a text file. Name a file." in done.stderr


def test_a_text_that_is_refused_is_refused_with_its_reason(work: Path) -> None:
    with pytest.raises(DataError, match="fifo is a pipe, expected a folder of .npy files, an .npz file or a .txt file"):
        NpyFolder(work / "fifo")
