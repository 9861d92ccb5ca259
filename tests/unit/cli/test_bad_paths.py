"""Every command with every option that takes a path, each given every kind of bad path: one sentence and exit code 2.

The options are asked of the command line itself, so that a new one is tested, too.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import typer
from PIL import Image
from shell import Shell

import calib8 as calib8_library
from calib8.cli.main import app
from calib8.errors import InputError, SetupError
from calib8.files import (
    atomic,
    default_cache,
    read_bytes,
    require_file,
    require_folder,
    require_separate,
    sha256_file,
    write_text,
)
from calib8.testing import tiny_encoder, tiny_mlp
from denied import permissions_hold

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

#: What a command needs to work, by parameter; ``more`` what an option needs to be looked at.
NEEDED: dict[str, dict[str, object]] = {
    "fetch": {"name": "all-mpnet-base-v2", "to": "fetched"},
    "prepare": {"texts": "texts.txt", "tokenizer": "model", "output": "prepared"},
    "prepare-images": {"folder": "photos", "output": "images"},
    "calibrate": {"model": "model/model.onnx", "data": "data", "output": "made.json"},
    "quantize": {"model": "model/model.onnx", "ranges": "ranges.json", "output": "made.onnx", "min_sqnr": 0},
    "build": {"model": "int8.onnx", "output": "made.engine", "target": "sm86"},
    "convert": {"model": "model/model.onnx", "data": "data", "output": "all", "engine": False, "min_cosine": 0},
    "sensitivity": {"model": "model/model.onnx", "data": "data", "samples": 1},
    "migrate": {"cache": "calibration.cache", "model": "model/model.onnx", "output": "made.onnx"},
    "export-cache": {"source": "ranges.json", "output": "made.cache"},
    "run": {"artefact": "model/model.onnx", "data": "data", "output": "outputs"},
    "embed": {"artefact": "model/model.onnx", "texts": "texts.txt"},
    "verify": {"reference": "model/model.onnx", "candidate": "int8.onnx", "data": "texts.txt", "tokenizer": "model"},
    "inspect": {"path": "ranges.json"},
    "export": {"server": "triton", "artefact": "model/model.onnx", "output": "repository"},
    "serve": {"artefact": "model/model.onnx", "port": 0},
    "bench": {"artefacts": "model/model.onnx", "data": "texts.txt", "seconds": 0},
    "estimate": {"model": "model/model.onnx", "gpus": "L4"},
    "tune": {"model": "model/model.onnx", "data": "texts.txt"},
    "doctor": {},
}
#: Only a calibrator reads these, and TensorRT 10 alone has one: nothing but the path itself is looked at here.
UNREAD = {("build", "data"), ("build", "calibration_cache")}
#: Without which an option is none.
BESIDE = {("build", "ranges"): {"precision": "fp16", "model": "model/model.onnx"}}
#: Where a folder that is there, and empty, is what is wanted.
FOLDERS = {
    ("fetch", "to"), ("prepare", "output"), ("prepare-images", "output"),
    ("convert", "output"), ("run", "output"), ("export", "output"),
}  # fmt: skip

#: What is written: a file that must not be read may be replaced in a folder that may be written.
OUTPUTS = {"output", "plan", "cache", "log", "to", "timing_cache"}
#: No command line can hold a null character: only the library is given one, below.
KINDS = (
    "loop", "below a loop", "long name", "long path", "below a file", "folder", "process memory",
    "file system without files", "forbidden file", "in a forbidden folder",
)  # fmt: skip


def takes_path(parameter: Any) -> bool:
    return "Path" in str(parameter.type_descriptor.annotation)


OPTIONS = [(name, one.name) for name, command in COMMANDS.items() for one in command.params if takes_path(one)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with its tokenizer, data, ranges, cache and INT8 model."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("made")
    (folder / "model").mkdir()
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **{word: place for place, word in enumerate("abcde", 4)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    model = folder / "model" / "model.onnx"
    ir.save(tiny_encoder(), model)
    (folder / "texts.txt").write_text("a b c\nd\ne a\nb b\nc\nd e\n" * 8)
    calib8_library.prepare([folder / "texts.txt"], folder / "model", folder / "data")
    (folder / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "photos" / "black.png")
    ranges = calib8_library.calibrate(
        model, folder / "data", output=folder / "ranges.json", cache=folder / "calibration.cache"
    )
    calib8_library.save(
        calib8_library.quantize(calib8_library.load(model), ranges, calib8_library.Int8(min_sqnr_db=0)),
        folder / "int8.onnx",
    )
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with links to what was made, and bad paths beside it."""
    for each in made.iterdir():
        (tmp_path / each.name).symlink_to(each)
    bad = tmp_path / "bad"
    (bad / "folder").mkdir(parents=True)
    (bad / "file").write_text("a b c\n")
    (bad / "loop").symlink_to("loop")
    (bad / "forbidden file").write_text("a b c\n")
    (bad / "forbidden file").chmod(0)
    (bad / "forbidden").mkdir()
    (bad / "forbidden").chmod(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("calib8.zoo.fetch._gather", no_fetch)
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    (bad / "forbidden").chmod(0o700)


def no_fetch(*_: object) -> str:
    raise AssertionError("a place to which nothing can be written is refused before anything is fetched")


def bad_path(kind: str) -> str:
    return {
        "null": "bad/a\0b",
        "loop": "bad/loop",
        "below a loop": "bad/loop/x",
        "long name": "bad/" + "x" * 300,
        "long path": "bad/" + "x/" * 3000 + "y",
        "below a file": "bad/file/x",
        "folder": "bad/folder",
        "process memory": "/proc/self/mem",
        "file system without files": "/proc/calib8/x",
        "forbidden file": "bad/forbidden file",
        "in a forbidden folder": "bad/forbidden/x",
    }[kind]


def command_line(command: str, option: str, path: str) -> list[str]:
    given = NEEDED[command] | BESIDE.get((command, option), {}) | {option: path}
    line = command.split()
    for parameter in COMMANDS[command].params:
        if parameter.name not in given:
            continue
        value = given[parameter.name]
        if not parameter.opts[0].startswith("-"):
            line.append(str(value))
        elif isinstance(value, bool):
            line.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            line += [parameter.opts[0], str(value)]
    return line


def left(folder: Path) -> set[str]:
    """Every file but those in the user's cache."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {path for path in found if not path.startswith("cache")}


def test_every_command_and_option_is_known() -> None:
    assert set(NEEDED) == set(COMMANDS)
    assert len(OPTIONS) >= 55
    assert {command for command, _ in OPTIONS} == set(COMMANDS)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_it_is_refused_in_a_sentence(calib8: Shell, place: Path, command: str, option: str) -> None:
    before = left(place)
    for kind in KINDS:
        if kind == "folder" and (command, option) in FOLDERS:
            continue
        if (kind == "forbidden file" and option in OUTPUTS) or (command, option) in UNREAD:
            continue
        path = bad_path(kind)
        with permissions_hold():
            code, out, err = calib8(*command_line(command, option, path))
        said = f"{command} {option} {kind}: {err}"
        assert code == 2, said
        assert path in err, said
        assert "Traceback" not in err, said
        assert "bug" not in err, said
        assert not out, said
        assert left(place) == before, said


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/some/where"), "could not use /some/where: Permission"),
        (OSError(errno.ESTALE, "Stale file handle", b"/share"), "could not use /share: Stale file handle. Give"),
        (OSError(errno.ENOSPC, "No space left on device"), "refused to go on: No space left on device. Free disk"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), "refused to go on: No usable temporary dir"),
    ],
)  # fmt: skip
def test_the_net_tells_what_nobody_expected(
    calib8: Shell, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("calib8.inspect", fail)
    code, _, err = calib8("inspect", "x")
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    "error", [OSError("no number"), ConnectionResetError(errno.ECONNRESET, "reset"), KeyError("x")]
)
def test_a_bug_stays_one(calib8: Shell, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("calib8.inspect", fail)
    assert calib8("inspect", "x")[0] == 70


@pytest.mark.parametrize("kind", ["null", "loop", "below a loop", "long name", "long path", "in a forbidden folder"])
def test_the_library_tells_the_same(place: Path, kind: str) -> None:
    path = Path(bad_path(kind))
    with permissions_hold():
        for refuse in (
            lambda: require_file(path, "model"),
            lambda: require_folder(path),
            lambda: require_separate([path], []),
            lambda: require_separate(["x"], [path]),
            lambda: calib8_library.npy_folder(path),
            lambda: calib8_library.npz_file(path),
            lambda: calib8_library.load(path),
            lambda: calib8_library.inspect(path),
        ):
            with pytest.raises(InputError, match="could not reach"):
                refuse()


def test_what_cannot_be_read_is_told_by_its_name(place: Path) -> None:
    with permissions_hold():
        for read in (lambda path: read_bytes(path, "file"), sha256_file):
            with pytest.raises(InputError, match="could not read bad/forbidden file: Permission denied. Ask for perm"):
                read(Path("bad/forbidden file"))
    with pytest.raises(InputError, match="could not read /proc/self/mem: Input/output error. Give a regular file"):
        sha256_file(Path("/proc/self/mem"))


def test_an_input_that_fails_while_an_output_is_written_is_told_as_that_input(place: Path) -> None:
    with (
        permissions_hold(),
        pytest.raises(SetupError, match="could not use bad/forbidden file: Permission denied"),
        atomic(Path("output")),
    ):
        Path("bad/forbidden file").read_bytes()
    assert not Path("output").exists()


def test_a_full_disk_and_a_read_only_one_name_the_output(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, remedy in ((errno.ENOSPC, "Free disk space"), (errno.EROFS, "Ask for permission to write there")):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(SetupError, match=f"could not write output: {os.strerror(number)}. {remedy}"):
            write_text(Path("output"), "x")
        assert not Path("output").exists()


def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CALIB8_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(SetupError, match="Set CALIB8_CACHE to one, or HOME"):
        default_cache()
    calib8_library.save(tiny_mlp(), tmp_path / "model.onnx")
    with calib8_library.open(tmp_path / "model.onnx") as opened:  # what tune measured is not there, that is all
        assert opened(x=np.zeros((1, 4), np.float32))["y"].shape == (1, 3)
