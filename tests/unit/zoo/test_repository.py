"""Any repository of the model hub, over a double of ``huggingface_hub``, and folders of one."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from shell import Shell

import calib8
from calib8.errors import FetchError, InputError, SetupError
from calib8.files import sha256_file
from calib8.testing import tiny_mlp
from calib8.zoo import export

COMMIT = "4" * 40


class FakeHub(types.ModuleType):
    """``huggingface_hub`` as far as calib8 uses it: repositories are folders."""

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.online, self.delivered = root, True, list[str]()

    def HfApi(self) -> "FakeHub":  # noqa: N802
        return self

    def model_info(self, repo: str, *, revision: str | None, timeout: float) -> Any:
        assert timeout <= 5
        if not self.online or not (self.root / repo).is_dir() or revision not in (None, "main", COMMIT):
            raise OSError("404 Client Error\nand much more")
        files = [path.relative_to(self.root / repo).as_posix() for path in (self.root / repo).rglob("*")]
        siblings = [types.SimpleNamespace(rfilename=path) for path in [*files, "../outside_Pooling/config.json"]]
        return types.SimpleNamespace(sha=COMMIT, siblings=siblings)

    def hf_hub_download(self, repo: str, path: str, *, revision: str, etag_timeout: float) -> str:
        assert (revision, etag_timeout <= 5) == (COMMIT, True)
        self.delivered.append(path)
        if not self.online:
            raise ConnectionError("reset")
        return str(self.root / repo / path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    bars = types.SimpleNamespace(
        are_progress_bars_disabled=lambda: True, disable_progress_bars=list, enable_progress_bars=list
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", bars)
    return fake


def repository(hub: FakeHub, *onnx: str, **texts: str) -> Path:
    folder = hub.root / "someone" / "small"
    for path in onnx:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        ir.save(tiny_mlp(), folder / path, external_data=f"{Path(path).name}_data", size_threshold_bytes=0)
    for path, text in {"config.json": "{}", "README.md": "no", **texts}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_onnx_comes_as_it_is_with_its_weights_and_what_tells_how_to_use_it(hub: FakeHub, tmp_path: Path, notes) -> None:
    there = repository(hub, "onnx/model.onnx", "onnx/model_quantized.onnx", **{
        "tokenizer.json": "{}", "1_Pooling/config.json": "{}", "pytorch_model.bin": "large"})  # fmt: skip
    to = calib8.fetch("someone/small", tmp_path / "to", progress=notes)
    files = sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())
    assert files == [
        "1_Pooling/config.json", "calib8-model.json", "config.json", "model.onnx", "model.onnx_data", "tokenizer.json",
    ]  # fmt: skip
    assert calib8.load(to / "model.onnx").graph.initializers["first.weight"].const_value.numpy().shape == (4, 8)
    record = json.loads((to / "calib8-model.json").read_text())
    assert (record["repository"], record["revision"], record["onnx"]) == ("someone/small", COMMIT, "onnx/model.onnx")
    assert record["files"]["model.onnx"] == sha256_file(there / "onnx/model.onnx")
    assert len(record["files"]) == 5
    assert not (tmp_path / "outside_Pooling").exists()


def test_a_whole_folder_needs_no_network_and_a_damaged_one_is_made_again(hub: FakeHub, tmp_path: Path, notes) -> None:
    repository(hub, "model.onnx")
    to = calib8.fetch("someone/small@main", tmp_path / "to")
    hub.online, hub.delivered = False, []
    for name in ("someone/small", f"someone/small@{COMMIT}"):
        calib8.fetch(name, to, progress=notes)
    assert notes.messages == [
        f"{to} already holds someone/small at {COMMIT}, and every file has its SHA-256: nothing to do"
    ] * 2  # fmt: skip
    (to / "config.json").write_text("damaged")
    with pytest.raises(FetchError, match=r"the model hub gives nothing of someone/small \(OSError: 404 Client Error\)"):
        calib8.fetch("someone/small", to)
    hub.online = True
    calib8.fetch("someone/small", to)
    assert (to / "config.json").read_text() == "{}"


def test_several_onnx_files_are_told_and_one_is_chosen(hub: FakeHub, tmp_path: Path) -> None:
    repository(hub, "onnx/text.onnx", "onnx/vision.onnx")
    with pytest.raises(InputError, match=r"several ONNX files: onnx/text.onnx, onnx/vision.onnx.*--file onnx/text"):
        calib8.fetch("someone/small", tmp_path / "to")
    assert not (tmp_path / "to").exists()
    to = calib8.fetch("someone/small", tmp_path / "to", file="onnx/vision.onnx")
    assert (to / "vision.onnx_data").is_file()
    with pytest.raises(InputError, match=r"has no ONNX file x.onnx: it has onnx/text.onnx, onnx/vision.onnx"):
        calib8.fetch("someone/small", tmp_path / "to", file="x.onnx")


def test_what_cannot_be_had_is_said(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(hub)
    with pytest.raises(InputError, match="someone/small has no ONNX file, and not config.json and model.safetensors"):
        calib8.fetch("someone/small", tmp_path / "to")
    with pytest.raises(FetchError, match=r"gives nothing of someone/small at v9 .*a gated repository needs `hf auth"):
        calib8.fetch("someone/small@v9", tmp_path / "to")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SetupError, match="huggingface_hub is not installed"):
        calib8.fetch("someone/small", tmp_path / "to")


def test_a_file_of_others_is_not_replaced(hub: FakeHub, tmp_path: Path) -> None:
    repository(hub, "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists and was not put there by calib8 fetch"):
        calib8.fetch("someone/small", tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"


def test_weights_are_exported_from_the_hub_and_from_a_folder(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = repository(hub, **{"model.safetensors": "weights", "modules.json": "[]"})

    def exported(source: Path, target: Path, metadata: dict[str, str], progress: object) -> float:
        assert (source / "model.safetensors").read_text() == "weights"
        ir.save(tiny_mlp(), target)
        return 0.0

    monkeypatch.setattr(export, "require_packages", lambda: None)
    monkeypatch.setattr(export, "export", exported)
    for number, name in enumerate(("someone/small", str(there))):
        to = calib8.fetch(name, tmp_path / str(number))
        assert sorted(path.name for path in to.iterdir()) == [
            "calib8-model.json", "config.json", "model.onnx", "modules.json",
        ]  # fmt: skip


def test_the_command(hub: FakeHub, tmp_path: Path, monkeypatch, capsys) -> None:
    repository(hub, "a.onnx")
    code, out, _ = Shell(monkeypatch, capsys)("fetch", "someone/small", "--to", tmp_path / "to")
    assert (code, out) == (0, f"{tmp_path / 'to' / 'model.onnx'}\n")
    code, _, err = Shell(monkeypatch, capsys)("fetch", "someone/other", "--to", tmp_path / "to2")
    assert code == 2
    assert "Traceback" not in err
