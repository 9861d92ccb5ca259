"""Details of a comparison, by hand."""

import numpy as np
import pytest

from calib8.data.batching import Dataset
from calib8.data.inputs import InputSpec
from calib8.data.sources import Batches
from calib8.graph.inputs import declared_inputs
from calib8.runtime.null import NullRuntime
from calib8.testing import tiny_encoder, token_feeds
from calib8.verification.compare import compare
from calib8.verification.details import CHARACTERS, POINTS, WORST, details_of, project

X = InputSpec("x", np.dtype(np.float32), ("batch", 2))


def test_the_histogram_counts_every_sample_once() -> None:
    cosines = np.array([0.4, 0.99, 1.0, 1.0])
    found = details_of("y", np.arange(4), cosines, None)
    assert (found.scores.edges[0], found.scores.edges[-1]) == (0.4, 1)
    assert (found.scores.counts[0], found.scores.counts[-1], sum(found.scores.counts)) == (1, 3, 4)
    assert found.projection is None


@pytest.mark.parametrize("cosine", [1.0, 1 - 1e-16, 1 + 2.3e-16])
def test_equal_models_have_a_histogram_too(cosine: float) -> None:
    found = details_of("y", np.arange(3), np.full(3, cosine), None)
    assert sum(found.scores.counts) == found.scores.counts[-1] == 3


def test_the_worst_come_first_under_their_own_numbers() -> None:
    cosines = np.linspace(1, 0.9, 20)
    found = details_of("y", np.arange(20)[::-1], cosines, None)  # row 19, the worst, is sample 0
    assert [one.number for one in found.worst] == list(range(WORST))
    assert found.worst[0].score == pytest.approx(0.9)
    named = found.with_texts(["x" * 400, *(f"text {number}" for number in range(1, 20))])
    assert named.worst[3].text == "text 3"
    assert named.worst[0].text == "x" * (CHARACTERS - 1) + "…"


def test_sorting_by_length_does_not_mix_texts_up(notes) -> None:
    data = Dataset(Batches(token_feeds(2, 6, 4)), declared_inputs(tiny_encoder()))

    def answer(wrong: float):
        def run(arrays):
            lengths = arrays["attention_mask"].sum(axis=1)
            return {"y": np.stack([np.ones(len(lengths)), np.where(lengths == 4, wrong, 0)], axis=1)}

        return run

    kinds = {"y": "vectors"}  # they look like probabilities
    found = compare(NullRuntime(answer(0)), NullRuntime(answer(1)), data, kinds=kinds, progress=notes)
    worst = found.with_texts(["two", "six", "four"]).details.worst[0]
    assert (worst.number, worst.text, worst.score) == (2, "four", pytest.approx(0.5**0.5))
    assert found.with_texts(None) == found


def test_projection_by_hand() -> None:
    # Unit vectors on the axes: along x they vary by 2 x 1, along y by 2 x 0.36 around a mean of 0.
    reference = np.float32([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [1, 0, 0], [-1, 0, 0]])
    found = project(reference, reference)
    assert found is not None
    assert found.explained == pytest.approx((4 / 6, 2 / 6))
    assert found.reference == found.candidate
    np.testing.assert_allclose(found.reference, reference[:, :2], atol=1e-6)
    turned = project(reference, 7 * reference[:, [1, 0, 2]])  # length does not count
    assert turned is not None
    np.testing.assert_allclose(turned.candidate, reference[:, [1, 0]], atol=1e-6)


def test_no_plane_to_project_to() -> None:
    assert project(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)) is None
    assert project(np.ones((5, 1), np.float32), np.ones((5, 1), np.float32)) is None
    assert project(np.ones((5, 3), np.float32), np.ones((5, 3), np.float32)) is None


def test_points_are_bounded() -> None:
    many = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    found = project(many, many)
    assert found is not None
    assert len(found.reference) == len(found.candidate) == POINTS
