"""``calib8 embed``: one vector for each line, as lines come, in bounded memory."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import Shell

import calib8 as calib8_library
from calib8.data.array_files import save_rows
from calib8.data.reading import lines
from calib8.errors import DataError
from calib8.testing import tiny_encoder
from calib8.text.windows import ahead, windows

#: Peak memory of a run over so many lines, in KiB; ru_maxrss would count that of the parent before exec, too.
PEAK = """
import sys
from calib8.__main__ import main
sys.argv[:2] = ["calib8", "embed"]
try:
    main()
finally:
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


@pytest.fixture
def model(tokenizer_folder: Path) -> Path:
    path = tokenizer_folder / "model.onnx"
    ir.save(tiny_encoder(), path)
    return path


def started(*arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "calib8", "embed", *map(str, arguments), "--runtime", "onnxruntime"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"\na\n \t\nb c\n\n", ["", "a", "", "b c", ""]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        (b"\xef\xbb\xbf\n", [""]),
        (b"\n", [""]),
    ],
)
def test_every_line_has_its_vector(
    calib8: Shell, model: Path, tmp_path: Path, content: bytes, texts: list[str]
) -> None:
    (given := tmp_path / "given.txt").write_bytes(content)
    code, out, told = calib8("embed", model, given, "--runtime", "onnxruntime")
    assert code == 0, told
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == texts
    expected = calib8_library.embed(model, texts, runtime="onnxruntime")
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-6)
    assert calib8("embed", model, given, "-o", tmp_path / "x.npy", "--runtime", "onnxruntime")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), expected)
    document = json.loads(calib8("embed", model, given, "--runtime", "onnxruntime", "--json")[1])
    assert [one["text"] for one in document["embeddings"]] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\ncaf\xe9\nb\n", r"given\.txt is not UTF-8 text: line 3 .*0xe9 in position 3.*iconv"),
        (b"\xff\xfea\0", r"given\.txt is not UTF-8 text: line 1"),
        (b"", r"given\.txt: no line of text; expected one text a line"),
    ],
)
def test_what_is_no_text_leaves_no_file(
    calib8: Shell, model: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    (given := tmp_path / "given.txt").write_bytes(content)
    (out := tmp_path / "out").mkdir()
    code, _, told = calib8("embed", model, given, "-o", out / "x.npy", "--runtime", "onnxruntime")
    assert code == 2
    with pytest.raises(DataError, match=message):
        raise DataError(told)
    assert [*out.iterdir()] == []


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (os.O_RDONLY, "error: standard input: no line of text; expected one text a line."),
        (os.O_WRONLY, "error: standard input could not be read: Bad file descriptor. Name a file that can be."),
    ],
)
def test_standard_input_is_called_so(model: Path, mode: int, message: str) -> None:
    stream = os.open(os.devnull, mode)
    command = [sys.executable, "-m", "calib8", "embed", model, "--runtime", "onnxruntime"]
    try:
        found = subprocess.run(command, stdin=stream, capture_output=True, text=True, check=False)
    finally:
        os.close(stream)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == message


def test_a_missing_file_is_told_before_the_first_vector(calib8: Shell, model: Path, tmp_path: Path) -> None:
    (given := tmp_path / "given.txt").write_text("a\n")
    code, out, told = calib8("embed", model, given, tmp_path / "absent.txt")
    assert (code, out) == (2, "")
    assert "text file not found: expected a file at" in told


def test_output_comes_while_the_input_is_open(model: Path) -> None:
    """As behind ``tail -f``: each answer is read before the next line is written."""
    with started(model) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("a b", "", "c"):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


@contextmanager
def answered(model: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that gave its first answer, and whose input stays open."""
    with started(model) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == "a"
        yield process


def test_a_reader_that_has_seen_enough_ends_it(model: Path) -> None:
    with answered(model) as process:
        process.stdout.close()
        process.stdin.write(b"b\n")
        process.stdin.flush()
        assert process.wait(60) == 141


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_can_be_interrupted_while_it_waits_for_input(model: Path, sent: signal.Signals, code: int) -> None:
    with answered(model) as process:
        process.send_signal(sent)
        assert process.wait(60) == code


@pytest.mark.skipif(sys.platform != "linux", reason="what tells the peak of this process alone is Linux's")
def test_memory_does_not_grow_with_the_input(model: Path, tmp_path: Path) -> None:
    """20,000 lines and 200,000: more than two windows either way."""
    peaks = []
    for count in (20_000, 200_000):
        given = tmp_path / "given.txt"
        given.write_text("a b\n\nc\nd e a b\n" * (count // 4))
        output = tmp_path / f"{count}.npy"
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "embed", model, given, "-o", output, "-q", "--runtime", "onnxruntime"],
            stderr=subprocess.PIPE, check=True,
        )  # fmt: skip
        peaks.append(int(done.stderr.splitlines()[-1]))
        assert np.load(output, mmap_mode="r").shape == (count, 8)
    assert peaks[1] < peaks[0] + 16 * 1024  # 180,000 texts and their lists of tokens would take five times that


@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\xc3\xa4", b"\r\n", b" "]), max_size=6), max_size=8))
def test_lines_are_those_of_the_whole_however_they_come(parts: list[list[bytes]]) -> None:
    pieces = [b"".join(part) for part in parts]
    whole = b"".join(pieces)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return next((piece for piece in iter(lambda: pieces.pop(0) if pieces else b"end", b"end") if piece), b"")

    expected = whole.decode().split("\n")
    if expected[-1] == "":
        del expected[-1]
    assert list(lines(Slow(), "x")) == [line.strip() for line in expected]


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.data.reading.LONGEST", 100_000)
    with pytest.raises(DataError, match="zero: line 2 has more than 100,000 bytes; expected one text a line"):
        list(lines(io.BytesIO(b"a\n" + bytes(200_000)), "zero"))


@given(st.lists(st.one_of(st.none(), st.text(max_size=2))), st.integers(1, 4))
def test_windows_hold_every_text_once(texts: list[str | None], size: int) -> None:
    found = list(windows(texts, size))
    assert [text for window in found for text in window] == [text for text in texts if text is not None]
    assert all(1 <= len(window) <= size for window in found)


def test_long_texts_end_a_window_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.text.windows.MOST", 5)
    assert list(windows(["aaa", "bb", "c", "dddddd", "e"], 8)) == [["aaa", "bb"], ["c", "dddddd"], ["e"]]


def test_ahead_is_one_ahead_and_hands_on_what_is_raised() -> None:
    made = []

    def items():
        for number in range(3):
            made.append(number)
            yield number
        raise DataError("no more")

    found = ahead(items())
    assert next(found) == 0
    assert next(found) == 1
    assert len(made) <= 3
    assert next(found) == 2
    with pytest.raises(DataError, match="no more"):
        next(found)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.sampled_from([np.float32, np.int64]))
def test_saved_rows_are_those_of_one_array(tmp_path_factory, counts: list[int], dtype: type) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.npy"
    whole = np.arange(sum(counts) * 3).reshape(-1, 3).astype(dtype)
    assert save_rows(path, np.split(whole, np.cumsum(counts)[:-1])) == whole.shape
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), whole)
    np.save(path.with_name("y.npy"), whole)
    assert path.read_bytes() == path.with_name("y.npy").read_bytes()


def test_what_fails_half_way_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"before")

    def blocks():
        yield np.zeros((2, 3), np.float32)
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        save_rows(path, blocks())
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"x.npy": b"before"}
