"""Batches that fit what a runtime takes: optimisation profiles of an engine, fixed sizes of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays, InputSpec
from calib8.data.rooms import LARGEST, Room, Rooms, filled, most_rows, most_unpadded, padded, taken_length
from calib8.data.sources import Batches
from calib8.engine.profiles import ProfileSet, parse_profile, profile_sets, rooms_of
from calib8.errors import DataError
from calib8.graph.inputs import declared_inputs
from calib8.progress import Quiet
from calib8.runtime.contract import Contract
from calib8.runtime.ort import OrtRuntime
from calib8.runtime.run_all import run_all
from calib8.runtime.tensorrt.profiles import profile_for
from calib8.serving.config import Serve
from calib8.serving.server import serving
from calib8.testing import tiny_encoder, tiny_mlp
from calib8.text.sentence import SentenceEncoder
from calib8.verification.bench import measure
from calib8.verification.compare import compare
from calib8.verification.config import Bench

#: As `calib8 build` makes it; short texts in batches and long ones alone; whose least batch and length are more than 1.
PROFILES = {
    "default": ["1x1:8x64:64x384"],
    "two": ["1x1:1x64:1x384", "1x1:16x32:64x64"],
    "least rows": ["4x1:8x64:64x384"],
    "least length": ["1x16:8x64:64x384"],
    "few short": ["1x1:1x32:8x128", "1x16:32x128:64x384"],
}
TEXTS = ["a b c", "a", "d e", "b c d e a b"] * 30


def sets_of(shapes: Sequence[str]) -> tuple[ProfileSet, ...]:
    names = ("input_ids", "attention_mask")
    return profile_sets([parse_profile(f"{name}:{shape}") for shape in shapes for name in names])


class Profiled(OrtRuntime):
    """The model on the CPU, with an engine's profiles before it."""

    def __init__(self, model: ir.Model, sets: tuple[ProfileSet, ...]) -> None:
        super().__init__(model)
        self.sets = sets

    def rooms(self, name: str) -> Rooms:
        return rooms_of(self.sets, name)

    def _fitted(self, arrays: Mapping[str, Any]) -> Arrays:
        fitted = super()._fitted(arrays)
        profile_for({name: array.shape for name, array in fitted.items()}, self.sets)
        return fitted  # type: ignore[no-any-return]


@pytest.fixture(params=PROFILES)
def profiled(request: pytest.FixtureRequest) -> Profiled:
    return Profiled(tiny_encoder(positions=384), sets_of(PROFILES[request.param]))


def test_rooms_of_profiles() -> None:
    two = rooms_of(sets_of(PROFILES["two"]), "input_ids")
    assert two == (Room((1, 1), (1, 384)), Room((1, 64), (1, 64)))
    assert [most_rows(two, length) for length in (1, 64, 65, 384, 385)] == [64, 64, 1, 1, 1]
    assert padded(two, 3, 10) == (3, 10)
    least = (Room((4, 64), (16, 384)), Room((1, 2), (32, 64)))
    assert padded(least, 2, 20) == (2, 32)  # 64 positions, where the other room's 4 x 20 are 80
    assert padded(least, 1, 5) == (1, 32)
    assert padded(least, 3, 5) == (4, 16)
    assert padded(least, 65, 5) == (65, 5)  # fits nowhere
    assert rooms_of(sets_of(PROFILES["two"]), "other") == ()


def test_rooms_of_a_model() -> None:
    specs = (
        InputSpec("fixed", np.dtype(np.int64), (8, 128)),
        InputSpec("free", np.dtype(np.int64), ("batch", "sequence")),
        InputSpec("flat", np.dtype(np.float32), (None,)),
    )
    contract = Contract(("fixed", "free", "flat"), specs, {"sequence": 512})
    assert contract.room("fixed") == Room((8, 8), (128, 128))
    assert contract.room("free") == Room((1, LARGEST), (1, 512))
    assert contract.room("flat") == contract.room("unknown") == Room()


def test_texts_are_embedded_in_batches_that_the_profiles_take(profiled: Profiled, tokenizer_folder: Path) -> None:
    with profiled as engine, OrtRuntime(tiny_encoder(positions=384)) as free:
        got = SentenceEncoder(tokenizer_folder, engine).embed(TEXTS)
        np.testing.assert_allclose(got, SentenceEncoder(tokenizer_folder, free).embed(TEXTS), atol=1e-6)


def test_a_server_starts_with_any_profiles(profiled: Profiled, tokenizer_folder: Path) -> None:
    with profiled as engine, serving(SentenceEncoder(tokenizer_folder, engine), Serve(port=0), "t", 0, Quiet()):
        pass


def test_a_length_that_may_not_be_padded() -> None:
    few = rooms_of(sets_of(PROFILES["few short"]), "input_ids")
    assert [most_unpadded(few, length) for length in (1, 15, 16, 384)] == [8, 8, 64, 64]
    assert [taken_length(few, length) for length in (1, 15, 400)] == [1, 15, 400]
    least = (Room((1, 64), (16, 384)), Room((1, 2), (32, 64)))
    assert [taken_length(least, length) for length in (1, 16, 20)] == [16, 16, 20]


@pytest.mark.parametrize("name", PROFILES)
def test_arrays_are_run_in_batches_that_the_profiles_take(name: str) -> None:
    model, ids = tiny_encoder(positions=384), np.full((100, 20), 5)
    mask = (np.arange(20) < 7).astype(np.int64) * np.ones_like(ids)
    data = Dataset(Batches({"input_ids": ids, "attention_mask": mask}), declared_inputs(model))
    with Profiled(model, sets_of(PROFILES[name])) as engine, OrtRuntime(model) as free:
        assert len(next(iter(run_all(engine, data, Quiet()).values()))) == 100
        assert compare(free, engine, data, progress=Quiet()).cosine_min == pytest.approx(1)
    assert [len(rows) for rows, _ in data.batches((Room((1, 40)),), (Room((1, 30)),))] == [30, 30, 30, 10]


@pytest.mark.parametrize("mask", [7, None], ids=["masked", "plain"])
def test_a_batch_smaller_than_the_least_is_filled_up_and_cut_again(mask: int | None) -> None:
    """Three samples where batches have 4 to 64 rows: all outputs are those of a runtime that takes any number."""
    model, ids = tiny_encoder(positions=384), np.random.default_rng(0).integers(2, 30, (3, 20))
    data = Dataset(Batches(_tokens(ids, mask or 20)), declared_inputs(model))
    with Profiled(model, sets_of(PROFILES["least rows"])) as engine, OrtRuntime(model) as free:
        with pytest.raises(DataError, match="the engine was not built for input_ids 3x20"):
            engine.run(_tokens(ids, 20))
        ours, theirs = (run_all(runtime, data, Quiet())["last_hidden_state"] for runtime in (engine, free))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert compare(free, engine, data, progress=Quiet()).samples == 3
        assert compare(engine, free, data, progress=Quiet()).cosine_min == pytest.approx(1)


def _tokens(ids: np.ndarray, length: int) -> Arrays:
    return {"input_ids": ids, "attention_mask": (np.arange(20) < length).astype(np.int64) * np.ones_like(ids)}


def test_speed_is_that_of_the_rows_asked_for() -> None:
    model, sizes = tiny_encoder(positions=384), []

    class Counting(Profiled):
        def _run(self, arrays: Arrays) -> Arrays:
            sizes.append(len(arrays["input_ids"]))
            return super()._run(arrays)

    data = Dataset(Batches(_tokens(np.full((3, 20), 5), 20)), declared_inputs(model))
    config = Bench(batches=(1, 8), warm_up=1, least=1, seconds=0)
    with Counting(model, sets_of(PROFILES["least rows"])) as engine:
        small, large = measure({"engine": engine}, data, config, Quiet())
    assert sizes == [4, 8, 4, 8]
    for cell, batch in ((small, 1), (large, 8)):
        found = cell.latencies["engine"]
        assert found.samples_per_second == pytest.approx(batch / found.median_ms * 1e3)


def test_rows_that_are_enough() -> None:
    rooms = (Room((4, 64), (16, 384)), Room((2, 32), (1, 64)))
    assert [filled(rooms, 1, length) for length in (1, 16, 65, 400)] == [2, 2, 4, 1]
    assert [filled(rooms, rows, 16) for rows in (2, 3, 40, 64, 65)] == [2, 3, 40, 64, 65]


def test_arrays_without_a_mask_too() -> None:
    model = tiny_mlp()
    spec = declared_inputs(model)[0]
    data = Dataset(Batches({spec.name: np.ones((10, *spec.shape[1:]), np.float32)}), (spec,))  # type: ignore[arg-type]
    assert [len(rows) for rows, _ in data.batches((Room((1, 4)),))] == [4, 4, 2]
