import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from calib8 import files
from calib8.data.array_files import save_array
from calib8.errors import InputError, SetupError


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "note.txt"
    files.write_text(path, "old")
    files.write_text(path, "né")
    assert path.read_bytes() == b"n\xc3\xa9"
    assert os.listdir(path.parent) == ["note.txt"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "note.txt", "")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "note.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SetupError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a bug"), ValueError),
    ],
)
def test_failure_while_writing_keeps_the_old_file(
    tmp_path: Path, failure: BaseException, raised: type[BaseException]
) -> None:
    path = tmp_path / "note.txt"
    files.write_text(path, "old")

    def write() -> None:
        with files.atomic(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(raised):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_disk_full_says_what_to_do(tmp_path: Path) -> None:
    def write() -> None:
        with files.atomic(tmp_path / "note.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SetupError, match=r"could not write .*note\.txt: No space left on device\. Free disk space"):
        write()
    assert os.listdir(tmp_path) == []


def test_array_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.arange(3))

    def write_some(stream: BinaryIO, array: np.ndarray, allow_pickle: bool) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", write_some)
    with pytest.raises(SetupError, match=r"could not write .*a\.npy: No space left"):
        save_array(path, np.arange(100))
    assert np.load(path).tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("below", ["note.txt", "deep/note.txt"])
def test_target_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"could not write .*note\.txt: .*A part of that path is a file, not a folder"):
        files.write_text(tmp_path / "file" / below, "")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EDQUOT, "Free disk space or choose another folder"),
        (errno.EACCES, "Ask for permission to write there"),
        (errno.EROFS, "Ask for permission to write there"),
        (errno.EIO, "Choose another folder"),
    ],
)
def test_the_remedy_fits_the_reason(tmp_path: Path, code: int, remedy: str) -> None:
    def write() -> None:
        with files.atomic(tmp_path / "note.txt"):
            raise OSError(code, os.strerror(code))

    with pytest.raises(SetupError, match=rf"{os.strerror(code)}\. {remedy}.*; nothing half-written was left behind\."):
        write()


def test_a_folder_in_the_way_and_a_long_name(tmp_path: Path) -> None:
    (tmp_path / "note.txt").mkdir()
    with pytest.raises(SetupError, match="That is a folder: choose another name, or remove it"):
        files.write_text(tmp_path / "note.txt", "")
    with pytest.raises(SetupError, match="Choose a shorter name"):
        files.write_text(tmp_path / ("n" * 255), "")
    assert os.listdir(tmp_path) == ["note.txt"]


def test_a_hard_link_in_the_temporary_files_place_keeps_its_mode(tmp_path: Path) -> None:
    source = tmp_path / "cache"
    source.write_text("kept")
    source.chmod(0o400)
    with files.atomic(tmp_path / "note.txt") as temporary:
        temporary.unlink()
        temporary.hardlink_to(source)
    assert (tmp_path / "note.txt").samefile(source)
    assert source.stat().st_mode & 0o777 == 0o400


def test_the_umask_of_the_process_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("other threads would create files with it"))
    files.write_text(tmp_path / "note.txt", "")


def test_json_round_trip(tmp_path: Path) -> None:
    content = {"größe": [1, 2.5, None]}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json", "plan") == content


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1'])
def test_damaged_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not a ranges file: it is no valid JSON .* Make it again"):
        files.read_json(tmp_path / "a.json", "ranges file")


def test_missing_file_names_its_role(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan not found: expected a file at .*a\.json, found nothing there"):
        files.read_json(tmp_path / "a.json", "plan")
    with pytest.raises(InputError, match="is a folder, expected a file: plan. Name the file in it"):
        files.require_file(tmp_path, "plan")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_sha256_reads_every_block(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "a").write_bytes(content)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_sweeping_takes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a[1].engine"
    left = tmp_path / f".{path.name}.0123456789abcdef.part"
    others = [tmp_path / f".b.engine.{'0' * 16}.part", tmp_path / f".{path.name}.old.part", path]
    for each in (left, *others):
        each.write_text("half")
    with files.atomic(path) as under_way:
        under_way.write_text("whole")
        files.sweep(path)
        assert under_way.exists()
    assert not left.exists()
    assert all(each.exists() for each in others)
    assert path.read_text() == "whole"


def test_outputs_that_cannot_be_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, file = tmp_path / "data", tmp_path / "file"
    data.mkdir()
    file.write_text("")
    files.require_separate([tmp_path / "new" / "ranges.json", data / "ranges.json"], [data])
    with pytest.raises(InputError, match=r"data/images\.npy would be among the inputs of this command"):
        files.require_separate([data / "images.npy"], [data])
    with pytest.raises(InputError, match="data is a folder, expected the name of a file to write"):
        files.require_separate([data], [])
    with pytest.raises(SetupError, match="file is a file, expected a folder"):
        files.require_separate([file / "below" / "ranges.json"], [])
    with pytest.raises(SetupError, match="file is a file, expected a folder"):
        files.require_folder(file)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # what root is never told
    with pytest.raises(SetupError, match="no permission to write in"):
        files.require_folder(data / "new")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["data", "file"]


def test_outputs_are_neither_inputs_nor_each_other(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    files.require_separate([a, None, b], [tmp_path / "c"])
    with pytest.raises(InputError, match="b is an input of this command"):
        files.require_separate([a, b], [b])
    with pytest.raises(InputError, match="written twice"):
        files.require_separate([a, None, tmp_path / "x" / ".." / "a"], [b])


def test_who_waits_for_a_folder_is_told_and_gets_it(tmp_path: Path) -> None:
    order: list[str] = []
    told = threading.Event()

    def note(text: str) -> None:
        order.append(text)
        told.set()

    def second() -> None:
        with files.locked(tmp_path, note):
            order.append("second")

    waiting = threading.Thread(target=second)
    with files.locked(tmp_path, note):
        waiting.start()
        assert told.wait(10)
        order.append("first")
    waiting.join(10)
    assert order == [f"waiting: another run is at work in {tmp_path}", "first", "second"]


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("make", [files.atomic, files.temporary_folder])
def test_a_sweep_before_the_lock_is_there_costs_another_name(
    make: Callable[[Path], AbstractContextManager[Path]], locked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the temporary for what was left, before it is opened for its lock or right after."""
    flock, swept = files.flock, list[Path]()

    @contextmanager
    def late(path: Path, *, wait: bool = True) -> Iterator[bool | None]:
        first = not swept
        swept.append(path)
        if first and not locked:
            gone(path)
        with flock(path, wait=wait) as held:
            if first and locked:
                gone(path)
            yield held

    def gone(path: Path) -> None:
        path.rmdir() if path.is_dir() else path.unlink()

    monkeypatch.setattr(files, "flock", late)
    with make(tmp_path / "x") as temporary:
        assert temporary.exists()
        assert [temporary] == swept[1:]
        assert list(tmp_path.iterdir()) == [temporary]
    assert sorted(tmp_path.iterdir()) == ([tmp_path / "x"] if make is files.atomic else [])
