from collections.abc import Callable

import numpy as np
import pytest

from calib8.data.batching import Dataset
from calib8.data.inputs import Arrays, InputSpec
from calib8.data.sources import Batches
from calib8.errors import AccuracyMissed, DataError
from calib8.graph.inputs import declared_inputs
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_encoder, token_feeds
from calib8.verification.compare import Closeness, Comparison, Spearman, compare
from calib8.verification.config import Verify
from calib8.verification.kinds.vectors import NEIGHBOURS

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
    assert result.sqnr_db is None
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
    assert result.sqnr_db == pytest.approx(11.76, abs=0.005)
    assert result.outputs["y"].sqnr_db == result.sqnr_db


def test_padding_is_ignored_and_samples_are_put_in_order(notes) -> None:
    feeds = token_feeds(2, 6, 4)
    data = Dataset(Batches(feeds), declared_inputs(tiny_encoder()))

    def answer(noise: float) -> Callable[[Arrays], Arrays]:
        def run(arrays: Arrays) -> Arrays:
            ids, mask = arrays["input_ids"], arrays["attention_mask"]
            hidden = np.stack([ids, ids**2], axis=2).astype(np.float32)
            return {"y": np.where(mask[:, :, None] == 1, hidden, noise)}

        return run

    result = compare(NullRuntime(answer(0)), NullRuntime(answer(99)), data, progress=notes)
    assert (result.samples, result.cosine_min, result.sqnr_db) == (3, pytest.approx(1), None)


def test_pooling(notes) -> None:
    data = Dataset(Batches(token_feeds(2, 2)), declared_inputs(tiny_encoder()))

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
        (same, lambda a: {"y": a["x"] * np.nan}, "output 'y' of null runtime holds NaN or infinity"),
        (lambda a: {"y": a["x"] + np.inf}, same, "output 'y' of null runtime holds NaN or infinity"),
        (
            lambda a: same(a) | {"second": a["x"]},
            lambda a: same(a) | {"second": np.where(a["x"] > 3, np.nan, a["x"])},
            "output 'second' of null runtime holds NaN or infinity",
        ),
    ],
)
def test_never_passes_on_nothing(reference, candidate, message: str, notes) -> None:
    with pytest.raises(DataError, match=message):
        compared(reference, candidate, notes)


def test_nan_is_told_with_the_sample_in_the_order_of_the_data(notes) -> None:
    data = Dataset(Batches(token_feeds(2, 6, 4)), declared_inputs(tiny_encoder()))  # runs the longest, sample 1, first

    def answer(broken: int) -> Callable[[Arrays], Arrays]:
        def run(arrays: Arrays) -> Arrays:
            lengths = arrays["attention_mask"].sum(axis=1)
            return {"y": np.where(lengths == broken, np.nan, 1.0)[:, None] * np.ones(3)}

        return run

    with pytest.raises(DataError, match="output 'y' of null runtime holds NaN or infinity for sample 2"):
        compare(NullRuntime(answer(0)), NullRuntime(answer(4)), data, progress=notes)


def test_padding_that_is_nan_is_not_looked_at(notes) -> None:
    feeds = token_feeds(2, 6, 4)
    data = Dataset(Batches(feeds), declared_inputs(tiny_encoder()))

    def answer(padding: float, token: float = 1.0) -> Callable[[Arrays], Arrays]:
        def run(arrays: Arrays) -> Arrays:
            mask = arrays["attention_mask"][:, :, None]
            return {"y": np.where(mask == 1, token * np.arange(1.0, 4.0), padding)}

        return run

    for padding in (np.nan, 0.0, np.inf):
        found = compare(NullRuntime(answer(np.nan)), NullRuntime(answer(padding)), data, progress=notes)
        assert (found.cosine_mean, found.sqnr_db) == (pytest.approx(1), None)
    with pytest.raises(DataError, match="holds NaN or infinity for sample"):
        compare(NullRuntime(answer(np.nan)), NullRuntime(answer(0.0, np.nan)), data, progress=notes)


def test_zeros_prove_nothing(notes) -> None:
    with pytest.raises(DataError, match="output 'y' of the reference is zero throughout, which proves nothing"):
        compared(lambda a: {"y": 0 * a["x"]}, lambda a: {"y": 0 * a["x"]}, notes)
    with pytest.raises(DataError, match="output 'second' of the reference is zero"):
        compared(lambda a: same(a) | {"second": 0 * a["x"]}, lambda a: same(a) | {"second": a["x"]}, notes)


def test_every_output_is_judged_and_the_worst_counts(notes) -> None:
    def with_second(sign: int) -> Callable[[Arrays], Arrays]:
        return lambda a: same(a) | {"second": sign * a["x"]}

    result = compared(with_second(1), with_second(-1), notes)
    assert (result.outputs["y"].mean, result.outputs["y"].sqnr_db) == (1, None)
    assert (result.cosine_mean, result.cosine_p1, result.cosine_min, result.neighbours) == (-1, -1, -1, 0)
    assert result.sqnr_db == result.outputs["second"].sqnr_db == pytest.approx(-6.02, abs=0.005)
    with pytest.raises(AccuracyMissed, match=r"mean cosine -1\.0.*, the worst of the outputs y, second\. "):
        result.raise_for_failure(Verify(min_cosine=0.9))


def test_a_factor_of_a_thousand_is_seen(notes) -> None:
    result = compared(same, lambda a: {"y": 1000 * a["x"]}, notes)
    assert result.cosine_mean == pytest.approx(1)
    with pytest.raises(AccuracyMissed, match=r"SQNR in dB -59\.9.*, expected at least 10"):
        result.raise_for_failure(Verify(min_cosine=0.9, min_sqnr_db=10))


def test_ragged_batches_without_a_mask_have_no_neighbours(notes) -> None:
    spec = InputSpec("x", np.dtype(np.float32), ("batch", "sequence"))
    ragged = Dataset(Batches([{"x": np.ones((2, 3), np.float32)}, {"x": np.ones((2, 5), np.float32)}]), (spec,))
    result = compare(NullRuntime(same), NullRuntime(same), ragged, progress=notes)
    assert (result.samples, result.cosine_min, result.neighbours) == (4, pytest.approx(1), None)


@pytest.mark.parametrize("output", [np.float32(1), np.ones(1), np.ones((2, 3))])
def test_an_output_without_a_row_per_sample(output: np.ndarray, notes) -> None:
    with pytest.raises(
        DataError, match=r"output 'loss' has shape \[.*\] for a batch of 3; expected one row per sample"
    ):
        compared(lambda a: {"loss": output}, lambda a: {"loss": output}, notes)


def test_an_output_of_text(notes) -> None:
    with pytest.raises(DataError, match="output 'y' is not of numbers"):
        compared(lambda a: {"y": np.array(["a", "b", "c"])}, same, notes)


def test_the_advice_fits_the_runtime(notes) -> None:
    class Half(NullRuntime):
        computes_fp16 = True

    def broken(arrays: Arrays) -> Arrays:
        return {"y": arrays["x"] * np.nan}

    data = Dataset(Batches({"x": ROWS}), (X,))
    with pytest.raises(DataError, match="quantise with --remainder fp32"):
        compare(NullRuntime(same), Half(broken), data, progress=notes)
    with pytest.raises(DataError, match=r"It computes in FP32 there, so the model itself is broken"):
        compare(NullRuntime(broken), Half(same), data, progress=notes)


CLOSE = Closeness(mean=0.99, p1=0.95, lowest=0.9, at_least=0.97, measures={NEIGHBOURS: 0.8}, sqnr_db=20)
RESULT = Comparison(samples=5, outputs={"y": CLOSE}, spearman=Spearman(pairs=9, reference=88.0, candidate=87.0))


def changed(**change: object) -> Comparison:
    return RESULT.model_copy(update={"outputs": {"y": CLOSE.model_copy(update=change)}})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_cosine": 0.991}, r"mean cosine 0\.99000, expected at least 0\.991"),
        ({"min_p1": 0.96}, r"1st percentile of cosine 0\.95000, expected at least 0\.96"),
        ({"min_neighbours": 0.9}, r"neighbour agreement 0\.80000, expected at least 0\.9"),
        ({"min_sqnr_db": 20.5}, r"SQNR in dB 20\.00000, expected at least 20\.5"),
        ({"max_spearman_loss": 0.5}, r"Spearman 87\.00 against 88\.00, expected a loss of at most 0\.5"),
        ({"min_cosine": 1, "min_p1": 1}, "mean cosine .*; 1st percentile"),
    ],
)
def test_missed_limits_are_named(limits: dict[str, float], message: str) -> None:
    with pytest.raises(AccuracyMissed, match=f"accuracy limit missed on 5 samples: {message}.*--exclude"):
        RESULT.raise_for_failure(Verify(**limits))


def test_limits_that_are_met_exactly() -> None:
    RESULT.raise_for_failure(
        Verify(min_cosine=0.99, min_p1=0.95, min_neighbours=0.8, min_sqnr_db=20, max_spearman_loss=1)
    )
    RESULT.raise_for_failure(Verify())
    changed(sqnr_db=None).raise_for_failure(Verify(min_sqnr_db=99))  # equal to the bit


@pytest.mark.parametrize(
    ("found", "limits", "message"),
    [
        (changed(mean=np.nan), {"min_cosine": -1}, "mean cosine nan"),
        (changed(mean=np.nan), {"standard": True}, "mean cosine nan"),
        (changed(measures={}), {"min_neighbours": 0}, "neighbour agreement nan"),
        (changed(kind="number"), {"min_cosine": -1}, r"mean cosine not measured: the outputs are y \(number\)"),
        (RESULT, {"require": "boxes=0.5"}, r"mean score of boxes not measured: the outputs are y \(vectors\)"),
        (RESULT.model_copy(update={"spearman": None}), {"max_spearman_loss": 99}, "Spearman not measured.*--pairs"),
        (
            RESULT.model_copy(update={"spearman": Spearman(pairs=9, reference=88.0, candidate=np.nan)}),
            {"max_spearman_loss": 99},
            "Spearman nan against",
        ),
    ],
)
def test_what_was_not_measured_misses_every_limit(found: Comparison, limits: dict, message: str) -> None:
    with pytest.raises(AccuracyMissed, match=message):
        found.raise_for_failure(Verify(**limits))


@pytest.mark.parametrize(
    ("limits", "missed"),
    [
        ({"standard": True}, ["mean cosine of y"]),
        ({"standard": True, "require": "number=0.95"}, ["mean cosine of y", "agreement of numbers of z"]),
        (
            {"standard": True, "min_cosine": 0.9},
            ["agreement of numbers of z"],
        ),  # what is asked for goes before what is usual
        ({"require": {"cosine": 0.95, "number": 0.9}}, ["mean cosine of y"]),
        ({"require": ["number=0.99", "z=0.9"]}, []),  # so does what is asked of an output before what is of its kind
    ],
)
def test_each_output_is_held_to_what_is_asked_of_it_or_of_its_kind(limits: dict, missed: list[str]) -> None:
    of = {"y": CLOSE.model_copy(update={"mean": 0.94}), "z": CLOSE.model_copy(update={"kind": "number", "mean": 0.94})}
    if limits == {"standard": True}:
        of["z"] = CLOSE.model_copy(update={"kind": "number", "mean": 0.98})
    found = Comparison(samples=5, outputs=of).judged(Verify(**limits))
    assert [one.name for one in found if not one.kept] == missed


def found_in(data: np.ndarray, found: np.ndarray, notes) -> Comparison:
    """Of images in which a box is found where ``data`` is 1, and by the candidate where ``found`` is 1."""

    def boxes(there: np.ndarray) -> Arrays:
        return {"y": np.repeat(np.float32([[0, 0, 10, 10, 0.9, 1]])[None], len(there), 0) * there[:, None, None]}

    arrays = Batches({"x": np.float32(np.stack([data, found], axis=1))})
    sides = [NullRuntime(lambda got, side=side: boxes(got["x"][:, side])) for side in (0, 1)]
    return compare(*sides, Dataset(arrays, (X,)), kinds={"y": "boxes"}, progress=notes)


def test_samples_without_anything_to_compare_prove_nothing(notes) -> None:
    # ten images, a box in four of them: three of four are found again, and of ten nine are as they were
    data = np.float32([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    missed = found_in(data, data * (np.arange(10) != 2), notes)
    assert (missed.samples, missed.outputs["y"].scored, missed.outputs["y"].mean) == (10, 4, 0.75)
    assert [(one.number, one.score) for one in missed.details.worst] == [(2, 0), (0, 1), (1, 1), (3, 1)]
    # Wilson, four of four: 1 / (1 + 1.645^2 / 4) = 0.5965
    again = found_in(data, data, notes)
    assert again.outputs["y"].at_least == pytest.approx(0.5965, abs=1e-4)
    assert again.doubts(Verify(standard=True)) == [
        "only 4 of 10 samples have anything to compare, which is too few to be sure of 0.95: with 95 % confidence "
        "share of boxes matched at IoU 0.5 is at least 0.596"
    ]
    assert found_in(data + 1, data + 1, notes).outputs["y"].scored is None


def test_nothing_found_anywhere_is_no_verdict(notes) -> None:
    def weak(arrays: Arrays) -> Arrays:
        return {"y": np.full((len(arrays["x"]), 60, 6), 0.1, np.float32)}

    data = Dataset(Batches({"x": ROWS}), (X,))
    with pytest.raises(DataError, match=r"output 'y', taken for boxes, has nothing to compare in any of 3 samples"):
        compare(NullRuntime(weak), NullRuntime(weak), data, kinds={"y": "boxes"}, progress=notes)


def test_few_samples_that_keep_a_limit_are_told_with_the_bound() -> None:
    few = changed(kind="classes", mean=1.0, at_least=0.72)
    assert few.doubts(Verify(require="classes=0.95")) == [
        "5 samples are too few to be sure of 0.95: with 95 % confidence agreement of the best class is at least 0.720"
    ]
    assert few.doubts(Verify(standard=True)) == few.doubts(Verify(require="y=0.95"))
    assert not few.doubts(Verify(require="classes=0.7"))
    assert not few.doubts(Verify(min_sqnr_db=10))
    assert len(RESULT.doubts(Verify(min_cosine=0.98))) == 1
    assert not changed(mean=0.9, at_least=0.8).doubts(Verify(standard=True))  # missed, and said so
