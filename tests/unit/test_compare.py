from collections.abc import Callable

import numpy as np
import pytest

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays, InputSpec, input_specs
from calib8.data.sources import Batches
from calib8.errors import AccuracyMissed, DataError
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_encoder, token_feeds
from calib8.verification.compare import Comparison, Spearman, compare, summarise
from calib8.verification.config import Verify

X = InputSpec("x", np.dtype(np.float32), ("batch", 2))
ROWS = np.float32([[1, 0], [0, 2], [3, 4]])


def compared(reference: Callable[[Arrays], Arrays], candidate: Callable[[Arrays], Arrays], notes) -> Comparison:
    data = Dataset(Batches({"x": ROWS}), (X,))
    return compare(NullRuntime(reference), NullRuntime(candidate), data, progress=notes)


def same(arrays: Arrays) -> Arrays:
    return {"y": arrays["x"]}


def test_equal_models(notes) -> None:
    result = compared(same, same, notes)
    assert (result.samples, result.cosine_mean, result.cosine_min, result.neighbours) == (3, 1, 1, 1)
    assert result.sqnr_db == {"y": None}
    assert notes.steps[-1] == ("verify", 3, 3)


def test_numbers_by_hand(notes) -> None:
    # only (3, 4) changes, to (4, 3): its cosine is 24 / 25 = 0.96; the mean (1 + 1 + 0.96) / 3.
    # 1st percentile: 2% of the way from 0.96 to 1. Signal 1 + 4 + 25 = 30, noise 1 + 1 = 2: 10 log10(15) = 11.76 dB
    def swapped(arrays: Arrays) -> Arrays:
        return {"y": np.where(arrays["x"] > 2, 7 - arrays["x"], arrays["x"])}

    result = compared(same, swapped, notes)
    assert result.cosine_mean == pytest.approx(2.96 / 3)
    assert result.cosine_min == pytest.approx(0.96)
    assert result.cosine_p1 == pytest.approx(0.96 + 0.02 * 0.04)
    assert result.sqnr_db["y"] == pytest.approx(11.76, abs=0.005)


def test_padding_is_ignored_and_samples_are_put_in_order(notes) -> None:
    feeds = token_feeds(2, 6, 4)
    data = Dataset(Batches(feeds), input_specs(tiny_encoder()))

    def answer(noise: float) -> Callable[[Arrays], Arrays]:
        def run(arrays: Arrays) -> Arrays:
            ids, mask = arrays["input_ids"], arrays["attention_mask"]
            hidden = np.stack([ids, ids**2], axis=2).astype(np.float32)
            return {"y": np.where(mask[:, :, None] == 1, hidden, noise)}

        return run

    result = compare(NullRuntime(answer(0)), NullRuntime(answer(99)), data, progress=notes)
    assert (result.samples, result.cosine_min, result.sqnr_db) == (3, pytest.approx(1), {"y": None})


def test_pooling(notes) -> None:
    data = Dataset(Batches(token_feeds(2, 2)), input_specs(tiny_encoder()))

    def answer(first: float) -> Callable[[Arrays], Arrays]:
        return lambda arrays: {"y": np.tile(np.float32([[first, 1], [1, 1]]), (len(arrays["input_ids"]), 1, 1))}

    mean = compare(NullRuntime(answer(1)), NullRuntime(answer(0)), data, pooling="mean", progress=notes)
    cls = compare(NullRuntime(answer(1)), NullRuntime(answer(0)), data, pooling="cls", progress=notes)
    # cls: (1, 1) against (0, 1) is 1 / sqrt 2; mean: (1, 1) against (0.5, 1) is 1.5 / sqrt(2 x 1.25)
    assert cls.cosine_mean == pytest.approx(0.70711, abs=1e-5)
    assert mean.cosine_mean == pytest.approx(0.94868, abs=1e-5)
    assert mean.neighbours is None  # two samples have no choice of neighbour


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (lambda a: {}, lambda a: {}, r"nothing to compare: the reference has outputs \[\], the candidate \[\]"),
        (
            same,
            lambda a: {"z": a["x"]},
            r"nothing to compare: the reference has outputs \['y'\], the candidate \['z'\]",
        ),
        (same, lambda a: same(a) | {"z": a["x"]}, r"the candidate \['y', 'z'\]"),
        (same, lambda a: {"y": a["x"][:, :1]}, r"output 'y' has shape \(3, 2\) in the reference and \(3, 1\)"),
        (same, lambda a: {"y": a["x"] * np.nan}, "output 'y' holds NaN or infinity"),
        (lambda a: {"y": a["x"] + np.inf}, same, "output 'y' holds NaN or infinity"),
        (
            lambda a: same(a) | {"second": a["x"]},
            lambda a: same(a) | {"second": np.where(a["x"] > 3, np.nan, a["x"])},
            "output 'second' holds NaN or infinity.*--remainder fp32",
        ),
    ],
)
def test_never_passes_on_nothing(reference, candidate, message: str, notes) -> None:
    with pytest.raises(DataError, match=message):
        compared(reference, candidate, notes)


def test_noise_without_a_signal_is_not_exact(notes) -> None:
    def with_zero(value: float) -> Callable[[Arrays], Arrays]:
        return lambda a: same(a) | {"zero": np.full_like(a["x"], value)}

    noisy = compared(with_zero(0), with_zero(1), notes).sqnr_db["zero"]
    assert noisy is not None
    assert -np.inf < noisy < -1000  # finite, since JSON has no infinity
    assert compared(with_zero(0), with_zero(0), notes).sqnr_db["zero"] is None


@pytest.mark.parametrize("vectors", [(np.zeros((0, 2)), np.zeros((0, 2))), (np.ones((3, 2)), np.ones((3, 3)))])
def test_no_or_unequal_vectors(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(DataError, match="nothing to compare: got vectors"):
        summarise(*vectors, {})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unusable_vectors(bad: float) -> None:
    with pytest.raises(DataError, match="a sample's vector holds NaN or infinity"):
        summarise(np.ones((3, 2)), np.array([[1, 1], [1, bad], [1, 1]]), {})


RESULT = Comparison(
    samples=5, cosine_mean=0.99, cosine_p1=0.95, cosine_min=0.9, neighbours=0.8, sqnr_db={},
    spearman=Spearman(pairs=9, reference=88.0, candidate=87.0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_cosine": 0.991}, r"mean cosine 0\.99000, expected at least 0\.991"),
        ({"min_p1": 0.96}, r"1st percentile of cosine 0\.95000, expected at least 0\.96"),
        ({"min_neighbours": 0.9}, r"neighbour agreement 0\.80000, expected at least 0\.9"),
        ({"max_spearman_loss": 0.5}, r"Spearman 87\.00 against 88\.00, expected a loss of at most 0\.5"),
        ({"min_cosine": 1, "min_p1": 1}, "mean cosine .*; 1st percentile"),
    ],
)
def test_missed_limits_are_named(limits: dict[str, float], message: str) -> None:
    with pytest.raises(AccuracyMissed, match=f"accuracy limit missed on 5 samples: {message}.*--exclude"):
        RESULT.raise_for_failure(Verify(**limits))


def test_limits_that_are_met_exactly() -> None:
    RESULT.raise_for_failure(Verify(min_cosine=0.99, min_p1=0.95, min_neighbours=0.8, max_spearman_loss=1))
    RESULT.raise_for_failure(Verify())


@pytest.mark.parametrize(
    ("change", "limits", "message"),
    [
        ({"cosine_mean": np.nan}, {"min_cosine": -1}, "mean cosine nan"),
        ({"neighbours": None}, {"min_neighbours": 0}, "neighbour agreement nan"),
        ({"spearman": None}, {"max_spearman_loss": 99}, "no Spearman correlation was measured.*--pairs"),
        (
            {"spearman": Spearman(pairs=9, reference=88.0, candidate=np.nan)},
            {"max_spearman_loss": 99},
            "Spearman nan against",
        ),
    ],
)
def test_what_was_not_measured_misses_every_limit(change: dict, limits: dict[str, float], message: str) -> None:
    with pytest.raises(AccuracyMissed, match=message):
        RESULT.model_copy(update=change).raise_for_failure(Verify(**limits))
