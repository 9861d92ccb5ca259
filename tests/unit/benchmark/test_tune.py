"""The fastest CPU runtime and form: what is measured, judged, remembered and said."""

import json
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from canaries import found_exact
from cpu_models import description, int8

import calib8
from calib8.benchmark import tune as tuning
from calib8.errors import ConfigError, DataError
from calib8.graph.io import load, save
from calib8.runtime import choice
from calib8.runtime.choice import CpuChoice, Measured, candidates, remembered
from calib8.runtime.null import NullRuntime
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.testing import token_feeds

SLOW = CpuChoice(runtime="onnxruntime", form="fp32", streams=1)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    found_exact(monkeypatch)
    return save(int8(), tmp_path / "model.onnx")


@pytest.mark.parametrize(("least", "kept"), [(-1.0, True), (1.1, False)])
def test_bf16_that_costs_too_much_is_left_out(
    least: float, kept: bool, model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "has_bf16", lambda: True)
    monkeypatch.setattr(tuning, "LEAST_COSINE", least)
    np.savez(tmp_path / "data.npz", **token_feeds(3, 5, 9))
    measured = calib8.tune(model, tmp_path / "data.npz", progress=notes)
    assert any("bf16" in name for name in measured.samples_per_second) == kept
    *judged, remembered = notes.messages
    said = ": taken, cosine to FP32" if kept else ": left out, cosine to FP32"
    assert judged
    assert all(said in message and f"at least {least} is demanded" in message for message in judged)
    file = Path(remembered.removeprefix("remembered in ").removesuffix("; delete that file to forget it"))
    written = json.loads(file.read_text())
    del written["facts"]
    assert Measured.model_validate(written) == measured


def test_tune_measures_remembers_and_says(model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cores", lambda: 2)
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    data = tmp_path / "data.npz"
    np.savez(data, **token_feeds(3, 5, 9))
    measured = calib8.tune(model, data, progress=notes)
    rates = measured.samples_per_second
    assert set(rates) == {str(one) for one in candidates(load(model))}
    assert rates[str(measured.choice)] == max(rates.values())
    assert remembered(load(model)) == measured.choice
    assert notes.steps[-1] == ("tune", tuning.ROUNDS, tuning.ROUNDS)
    assert [message.split(" in ")[0] for message in notes.messages] == ["remembered"]


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_bf16_is_judged_on_all_lengths(notes, wrong: float) -> None:
    """Here only samples of two tokens come out wrong."""

    def answer(arrays):
        length = arrays["input_ids"].shape[1]
        return {"y": np.full((2, 3), wrong if length == 2 else -1.0), "z": np.ones((2, 3))}

    exact, rounded = (CpuChoice(runtime="openvino", form="s8", streams=1, bf16=bf16) for bf16 in (False, True))
    for lengths, kept in (((9, 5, 3), True), ((9, 2, 5), False)):
        opened = {
            exact: NullRuntime(lambda _: {"y": -np.ones((2, 3)), "z": np.ones((2, 3))}),
            rounded: NullRuntime(answer),
        }
        tuning._drop_inexact(opened, [token_feeds(length, length) for length in lengths], notes)
        assert (rounded in opened) == kept


def test_batches_are_judged_from_the_shortest_to_the_longest(
    model: Path, notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []
    monkeypatch.setattr(
        tuning, "_drop_inexact", lambda _, batches, __: judged.extend(one["input_ids"].shape[1] for one in batches)
    )
    monkeypatch.setattr(tuning, "candidates", lambda _: [SLOW])
    chunks = [token_feeds(*[length] * 2) for length in (7, 2, 12, 16, 5)]
    calib8.tune(model, chunks, progress=notes)
    assert judged == [2, 7, 16]


def test_what_only_starts_slowly_may_win(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run of each shape takes long in OpenVINO, which compiles for it: no reason to leave a choice out."""
    seen: set[tuple[int, ...]] = set()

    def opened(_: ir.Model, one: CpuChoice) -> NullRuntime:
        def answer(arrays):  # type: ignore[no-untyped-def]
            shape = arrays["input_ids"].shape
            time.sleep(0.01 if one == SLOW else 0.001 if shape in seen else 0.2)
            if one == quick:
                seen.add(shape)
            return {"y": np.ones((2, 3))}

        return NullRuntime(answer)

    quick = SLOW.model_copy(update={"form": "u8"})
    monkeypatch.setattr(tuning, "candidates", lambda _: [SLOW, quick])
    monkeypatch.setattr(tuning, "open_choice", opened)
    measured = calib8.tune(model, [token_feeds(*[length] * 2) for length in (7, 2, 12)])
    assert measured.choice == quick
    assert measured.samples_per_second[str(quick)] > 2 * measured.samples_per_second[str(SLOW)]


def test_what_fails_never_wins(model: Path, tmp_path: Path, notes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self, arrays):
        raise DataError("no kernel")

    monkeypatch.setattr(OpenVinoRuntime, "_run", refuse)
    np.savez(tmp_path / "data.npz", **token_feeds(3, 5))
    measured = calib8.tune(model, tmp_path / "data.npz", progress=notes)
    assert {name.partition(",")[0] for name in measured.samples_per_second} == {"ONNX Runtime"}
    assert any("OpenVINO" in message and "no kernel" in message for message in notes.messages)


def test_an_unwritable_cache_is_told_and_no_error(model: Path, tmp_path: Path, notes, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    np.savez(tmp_path / "data.npz", **token_feeds(3))
    calib8.tune(model, tmp_path / "data.npz", progress=notes)
    (message,) = notes.messages
    assert message.startswith("the cache cannot be written")
    assert description(model).startswith("OpenVINO")


def test_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.engine is an engine: .* Name an ONNX model"):
        calib8.tune(tmp_path / "x.engine", tmp_path)
