"""What is on disk under the right name and is something else: never reused, whatever its size and time say."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.calibration.ranges import Ranges
from calib8.engine import build as building
from calib8.engine import sidecar
from calib8.errors import InputError, ModelError
from calib8.graph import io as graph_io
from calib8.graph.io import load, save
from calib8.graph.mapped import identity_of
from calib8.runtime.choice import CpuChoice, Measured, remember, remembered
from calib8.testing import tiny_encoder, tiny_mlp, token_feeds
from calib8.text.embed_corpus import _is_whole, _made_of

BENCH = Path(__file__).parents[2] / "bench"


def replace(path: Path, content: bytes) -> None:
    """Other content of the same size, with the same time of modification, in the same file."""
    before = path.stat()
    assert before.st_size == len(content)
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def flipped(path: Path) -> bytes:
    """The bytes of a file with one of a weight changed: an INT8 model as valid as before."""
    model = ir.load(path)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.INT8 and value.const_value.size > 8:
            codes = value.const_value.numpy().tobytes()
            content = path.read_bytes()
            at = content.index(codes)
            return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    raise AssertionError("no int8 weight")


@pytest.fixture
def converted(tmp_path: Path, notes) -> tuple[Callable[[], list[str]], Path]:
    """Convert the same again: what was said. And the folder."""
    model, data, output = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out"
    save(tiny_encoder(), model)
    np.savez(data, **token_feeds(*[4] * 40))
    config = calib8.Convert(build=None, quantize=calib8.Int8(min_sqnr_db=0), verify=calib8.Verify())

    def again() -> list[str]:
        notes.messages.clear()
        calib8.convert(model, data, output, config, progress=notes)
        return list(notes.messages)

    again()
    return again, output


def test_nothing_changed_and_all_of_it_is_reused(converted: tuple[Callable[[], list[str]], Path]) -> None:
    again, output = converted
    assert any("INT8 model is up to date: reused" in message for message in again())
    record = json.loads((output / "model.int8.onnx.json").read_text())
    assert record == {
        "format": "calib8.model/1",
        "sha256": calib8.inspect(output / "model.int8.onnx")["SHA-256 of this file"],
    }


def test_an_int8_model_that_was_changed_in_place_is_made_again(
    converted: tuple[Callable[[], list[str]], Path],
) -> None:
    again, output = converted
    path = output / "model.int8.onnx"
    good = path.read_bytes()
    replace(path, flipped(path))
    assert any("is not what the last run wrote there" in message for message in again())
    assert path.read_bytes() == good


@pytest.mark.parametrize("damage", ["", "[]", "{}", None])
def test_an_int8_model_without_its_record_is_made_again(
    converted: tuple[Callable[[], list[str]], Path], damage: str | None
) -> None:
    again, output = converted
    record = output / "model.int8.onnx.json"
    record.unlink() if damage is None else record.write_text(damage)
    assert any("is not what the last run wrote there" in message for message in again())
    assert "sha256" in record.read_text()


def test_ranges_that_were_changed_by_hand_are_used_and_not_reused(tmp_path: Path, notes) -> None:
    model, data, path = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "ranges.json"
    save(tiny_mlp(), model)
    np.savez(data, x=np.ones((8, 4), np.float32))
    made = calib8.calibrate(model, data, output=path)
    assert calib8.calibrate(model, data, output=path, progress=notes) == made
    assert notes.messages[-1].startswith("ranges are up to date")
    text = path.read_text()
    amax = f'"amax": {made.tensors["x"].amax}'
    assert amax == '"amax": 1.0'
    replace(path, text.replace(amax, '"amax": 2.0').encode())
    assert Ranges.load(path).tensors["x"].amax == 2.0  # whoever edits them means it
    assert Ranges.load_unchanged(path) is None
    notes.messages.clear()
    assert calib8.calibrate(model, data, output=path, progress=notes) == made
    assert f"calibrating again: {path} was changed after calib8 wrote it" in notes.messages
    assert path.read_text() == text


def test_a_model_and_data_replaced_in_place_are_others(tmp_path: Path, notes) -> None:
    model, data, path = tmp_path / "model.onnx", tmp_path / "data", tmp_path / "ranges.json"
    save(tiny_mlp(), model)
    data.mkdir()
    np.save(data / "x.npy", np.ones((8, 4), np.float32))
    calib8.calibrate(model, data, output=path)
    content = (data / "x.npy").read_bytes()
    replace(data / "x.npy", content[:-4] + np.float32(3).tobytes())
    assert calib8.calibrate(model, data, output=path, progress=notes).tensors["x"].amax == 3
    assert any("the calibration data changed" in message for message in notes.messages)
    whole = model.read_bytes()
    weight = tiny_mlp().graph.initializers["first.weight"].const_value
    assert weight is not None
    at = whole.index(weight.tobytes())
    replace(model, whole[:at] + np.float32(9).tobytes() + whole[at + 4 :])
    calib8.calibrate(model, data, output=path, progress=notes)
    assert any("the model changed" in message for message in notes.messages)


def test_the_time_of_a_file_can_be_set_and_its_identity_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = identity_of(path)
    replace(path, b"two")
    assert identity_of(path) != before


def test_a_model_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tiny_mlp(), tmp_path / "model.onnx")
    parsed = graph_io.load_mapped

    def parse_and_replace(given: Path) -> ir.Model:
        model = parsed(given)
        replace(path, path.read_bytes()[::-1])
        return model

    monkeypatch.setattr(graph_io, "load_mapped", parse_and_replace)
    with pytest.raises(ModelError, match="was changed while it was read"):
        load(path)


def test_an_engine_that_was_replaced_after_its_description_was_read_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(b"the engine")
    described = SimpleNamespace(engine_sha256=hashlib.sha256(b"the engine").hexdigest())
    monkeypatch.setattr(sidecar, "_sidecar_of", lambda _: described)
    assert sidecar.read_engine(path) == (described, b"the engine")

    def describe_and_replace(engine: Path) -> SimpleNamespace:
        replace(engine, b"an ENGINE!")
        return described

    monkeypatch.setattr(sidecar, "_sidecar_of", describe_and_replace)
    with pytest.raises(InputError, match=r"x\.engine\.json describes another engine than"):
        sidecar.read_engine(path)


def test_a_model_that_is_replaced_while_its_engine_is_built_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(tiny_mlp(), tmp_path / "model.onnx")
    ranges = calib8.calibrate(model, {"x": np.ones((8, 4), np.float32)})
    int8 = save(calib8.quantize(load(model), ranges, calib8.Int8(min_sqnr_db=0)), tmp_path / "int8.onnx")
    run = building.run_worker

    def build_and_replace(*request: object) -> object:
        outcome = run(*request)  # type: ignore[arg-type]
        replace(int8, flipped(int8))
        return outcome

    monkeypatch.setattr(building, "run_worker", build_and_replace)
    with pytest.raises(ModelError, match="was changed while an engine was built from it"):
        calib8.build(int8, tmp_path / "x.engine", calib8.Build(targets=("sm86",)))
    assert not list(tmp_path.glob("x.engine*"))


def test_what_tune_found_for_another_model_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    choice = CpuChoice(runtime="onnxruntime", form="fp32", streams=1)
    one, two = save(tiny_mlp(), tmp_path / "one.onnx"), save(tiny_encoder(), tmp_path / "two.onnx")
    measured = Measured(choice=choice, samples_per_second={str(choice): 1.0})
    kept, other = (remember(load(path), measured) for path in (one, two))
    assert kept is not None
    assert other is not None
    assert remembered(load(one)) == remembered(load(two)) == choice
    other.write_bytes(kept.read_bytes())
    assert remembered(load(two)) is None


def test_a_part_of_the_same_name_and_rows_that_was_made_of_something_else_is_made_again(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    file = tmp_path / "part-000000.parquet"
    item = {"path": "a.txt", "begin": 0, "rows": 2, "first": 0, "file": str(file)}
    one, two = ({**item, "made_of": _made_of(item, {"model": model})} for model in ("one", "two"))
    table = pa.table({"id": [0, 1]})
    pq.write_table(table, file)
    assert not _is_whole(one)
    pq.write_table(table.replace_schema_metadata({"calib8.made_of": one["made_of"]}), file)
    assert _is_whole(one)
    assert not _is_whole(two)
    assert not _is_whole({**one, "rows": 3})


def test_the_bench_takes_what_a_tool_made_only_if_it_is_as_it_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    encoders: ModuleType = __import__("encoders")
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "deep").mkdir()
        (folder / "deep" / "model").write_bytes(b"right")
        if len(made) == 3:
            raise KeyboardInterrupt

    settings = {"made": str(tmp_path)}
    folder = encoders._made(settings, "tool", make)
    assert encoders._made(settings, "tool", make) == folder
    assert len(made) == 1
    replace(folder / "deep" / "model", b"wrong")
    encoders._made(settings, "tool", make)
    assert (len(made), (folder / "deep" / "model").read_bytes()) == (2, b"right")
    (folder / "more").touch()
    with pytest.raises(KeyboardInterrupt):
        encoders._made(settings, "tool", make)  # a killed run leaves no record
    encoders._made(settings, "tool", make)
    assert len(made) == 4
    assert "encoders" in sys.modules
