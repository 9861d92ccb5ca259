"""Every kind of output, by numbers worked out by hand."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calib8.verification.kinds import KINDS, KindName
from calib8.verification.kinds.boxes import detections, overlaps
from calib8.verification.kinds.guess import guess
from calib8.verification.kinds.sequences import edit_distance
from calib8.verification.measured import Measured, at_least
from calib8.verification.named import USUAL


def measured(kind: KindName, *batches: tuple[Any, Any], mask: NDArray[Any] | None = None) -> Measured:
    found = Measured(kind, None, "mean")
    for pair in batches:
        expected, got = (found.kept(np.asarray(side), mask) for side in pair)
        found.add(expected, got)
    return found


def told(found: Measured) -> dict[str, float]:
    return found.measure.measures(*found.facts())


def test_the_table_has_every_kind_under_its_own_name() -> None:
    assert list(KINDS) == list(get_args(KindName)) == list(USUAL)
    assert all(name == kind.name for name, kind in KINDS.items())


ANY: dict[KindName, NDArray[Any]] = {
    "vectors": np.float32([[1, 2], [3, 4], [0, 1]]),
    "classes": np.float32([[1, 2, 0], [3, 4, 9]]),
    "number": np.float32([[1], [5], [-3]]),
    "boxes": np.float32([[[10, 10, 20, 20, 0.9, 0]] * 60]),
    "maps": np.float32([[[0.1, 0.9], [0.4, 0.6]]]),
    "ids": np.int64([3, 7, 7]),
    "sequences": np.float32([[[0.9, 0.1, 0], [0, 0.2, 0.8], [0.9, 0.1, 0]]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_equal_to_itself_in_one_batch_or_several(kind: KindName) -> None:
    array = ANY[kind]
    assert measured(kind, (array, array)).scores() == pytest.approx(np.ones(len(array)))
    apart = measured(kind, *((array[row : row + 1], array[row : row + 1]) for row in range(len(array))))
    assert apart.scores() == pytest.approx(np.ones(len(array)))
    assert told(apart) == pytest.approx(told(measured(kind, (array, array))))


def test_classes_by_hand() -> None:
    # sample 0: best 1 in both; sample 1: best 2, then 1. Of three classes the first five are all three.
    expected, got = np.log([[0.2, 0.7, 0.1], [0.1, 0.4, 0.5]]), np.log([[0.3, 0.6, 0.1], [0.1, 0.6, 0.3]])
    found = measured("classes", (expected, got))
    assert found.scores().tolist() == [1, 0]
    assert told(found) == {
        "of the first five, shared": 1,
        "largest change of probability": pytest.approx(0.2, abs=1e-6),
    }
    # of ten classes, 0 to 4 lead in one and 0 to 3 with 9 in the other
    leading = np.arange(10.0)[::-1][None]
    other = leading.copy()
    other[0, [4, 9]] = other[0, [9, 4]]
    assert told(measured("classes", (leading, other)))["of the first five, shared"] == pytest.approx(0.8)


def test_a_number_is_held_against_the_spread_and_not_its_sign() -> None:
    # spread of 1, 2, 3, 4: variance 1.25. Errors of 0.5: 1 - 0.25 / 2.5 = 0.9 each, where a cosine is 1.
    expected = np.float32([[1], [2], [3], [4]])
    found = measured("number", (expected[:2], expected[:2] + 0.5), (expected[2:], expected[2:] + 0.5))
    assert found.scores() == pytest.approx([0.9] * 4)
    assert told(found) == {"relative error": pytest.approx(0.2), "correlation": pytest.approx(1)}
    third = measured("number", (expected, expected + np.sqrt(1.25) / 3))
    assert third.scores() == pytest.approx([1 - 1 / 18] * 4)  # 0.944, as said
    assert third.scores().mean() < USUAL["number"]


def test_of_several_numbers_each_has_a_spread_of_its_own() -> None:
    expected = np.float32([[1, 1000], [3, 3000]])  # variances 1 and 1e6
    found = measured("number", (expected, expected + 1))  # shares of 1 / 2 and 1e-6 / 2
    assert found.scores() == pytest.approx([1 - (0.5 + 5e-7) / 2] * 2)
    assert told(found)["relative error of the worst channel"] == pytest.approx(0.5)


def test_a_constant_number_is_held_against_its_size() -> None:
    assert measured("number", (np.full((3, 1), 4.0), np.full((3, 1), 5.0))).scores() == pytest.approx([1 - 1 / 32] * 3)
    zero = np.zeros((2, 1))
    assert measured("number", (zero, zero)).scores().tolist() == [1, 1]
    assert measured("number", (zero, zero + 1)).scores().tolist() == [0, 0]


def test_a_number_for_each_token_leaves_padding_out() -> None:
    expected = np.float32([[[1], [3]], [[5], [99]]])
    got = np.float32([[[1], [3]], [[5], [-7]]])
    found = measured("number", (expected, got), mask=np.array([[1, 1], [1, 0]]))
    assert found.scores().tolist() == [1, 1]
    assert told(found)["relative error"] == 0


def test_maps_by_hand() -> None:
    expected = np.float32([[[0.9, 0.2], [0.6, 0.1]]])
    got = np.float32([[[0.8, 0.2], [0.4, 0.6]]])  # two of four cells agree; one of three that are above in either
    found = measured("maps", (expected, got))
    assert found.scores().tolist() == [0.5]
    assert told(found) == {
        "overlap of what is above 0.5": pytest.approx(1 / 3),
        "mean error of the worst channel": pytest.approx((0 + 0.5) / 2),
    }


def test_ids_are_right_or_wrong() -> None:
    found = measured("ids", ([[1, 2], [3, 4]], [[1, 2], [3, 5]]))
    assert found.scores().tolist() == [1, 0.5]
    assert told(found) == {"samples equal throughout": 0.5}
    assert measured("ids", ([5, 6], [5, 7])).scores().tolist() == [1, 0]


def path(*labels: int) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[list(labels)][None]


def test_sequences_are_decoded_before_they_are_compared() -> None:
    # blank is 0, the most usual: "1 1 2" and "1 2 2" by steps are 1 2 and 1 2
    same = measured("sequences", (path(1, 1, 0, 2, 0, 0), path(1, 0, 0, 2, 2, 0)))
    assert (same.scores().tolist(), told(same)) == ([1], {"decoded to the same": 1})
    # 1 1 (with a blank between) and 1: one of two is missing
    missing = measured("sequences", (path(1, 0, 1, 0, 0), path(1, 1, 1, 0, 0)), (path(2, 0, 0), path(2, 2, 0)))
    assert (missing.scores().tolist(), told(missing)) == ([0.5, 1], {"decoded to the same": 0.5})
    nothing = measured("sequences", (path(0, 0), path(0, 0)))
    assert (nothing.scores().tolist(), told(nothing)) == ([1], {})
    half = measured("sequences", (path(0, 0, 0), path(0, 0, 0)), (path(1, 0, 0), path(2, 0, 0)))
    assert told(half) == {"decoded to the same": 0}


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_edit_distance_is_a_distance(a: list[int], b: list[int]) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert (edit_distance(a, b) == 0) == (a == b)


def suppressed(*boxes: tuple[float, ...]) -> NDArray[np.float32]:
    """Corners, score and class of each, and nothings to make them 50."""
    return np.float32([[*boxes, *[(0.0,) * 6] * (50 - len(boxes))]])


def test_overlap_by_hand() -> None:
    # 10 x 10 and the same moved by 5: 50 shared of 150
    assert overlaps(np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0], [20, 20, 30, 30]])).tolist() == [
        [pytest.approx(1 / 3), 0]
    ]


def test_boxes_by_hand() -> None:
    expected = suppressed((0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.8, 1), (40, 0, 50, 10, 0.7, 2))
    got = suppressed((1, 0, 11, 10, 0.8, 1), (20, 0, 30, 10, 0.8, 2), (40, 0, 50, 10, 0.2, 2))
    found = measured(
        "boxes", (expected, got)
    )  # the first matches (9 / 11), the second has another class, the third is weak
    assert found.scores().tolist() == [pytest.approx(1 / 3)]
    assert told(found) == {
        "boxes of FP32": 3,
        "found again": pytest.approx(1 / 3),
        "right of those found": pytest.approx(1 / 2),
        "mean change of score": pytest.approx(0.1),
    }


def test_boxes_that_come_twice_count_once() -> None:
    twice = suppressed((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.8, 1))
    once = suppressed((0, 0, 10, 10, 0.9, 1))
    assert measured("boxes", (once, twice)).scores().tolist() == [0.5]
    assert measured("boxes", (once, once * 0)).scores().tolist() == [0]
    assert measured("boxes", (once * 0, once * 0)).scores().tolist() == [1]  # to a search, which has to go on


@pytest.mark.parametrize(
    ("kind", "empty", "full"),
    [("boxes", suppressed(), suppressed((0, 0, 10, 10, 0.9, 1))), ("sequences", path(0, 0, 0, 0), path(1, 0, 0, 0))],
)
def test_where_neither_side_counts_anything_there_is_no_score(kind: KindName, empty: Any, full: Any) -> None:
    found = measured(kind, (empty, empty), (full, full), (full, empty), (empty, full))
    assert np.array_equal(found.measure.scores(*found.facts()), [np.nan, 1, 0, 0], equal_nan=True)
    assert found.scores().tolist() == [1, 1, 0, 0]


def test_a_cosine_that_is_none_stays_none() -> None:
    beyond = np.float32([[np.inf, 1]])  # which a pooled vector may become
    assert np.isnan(measured("vectors", (beyond, beyond)).scores()).all()


def test_yolo_is_read_in_both_of_its_layouts() -> None:
    rows = np.zeros((60, 4 + 2))
    rows[0] = (50, 50, 20, 10, 0.1, 0.9)  # centre, size, scores of two classes
    rows[1] = (51, 50, 20, 10, 0.1, 0.8)  # suppressed by the first: it overlaps
    rows[2] = (51, 50, 20, 10, 0.7, 0.1)  # of another class
    found = detections(rows.T)
    assert found.corners.tolist() == [[40, 45, 60, 55], [41, 45, 61, 55]]
    assert (found.scores.tolist(), found.classes.tolist()) == ([0.9, 0.7], [1, 0])
    with_objectness = np.insert(rows, 4, 1.0, axis=1)
    with_objectness[2, 4] = 0.3  # 0.3 x 0.7 is below 0.25
    found = detections(with_objectness)
    assert (found.scores.tolist(), found.classes.tolist()) == ([0.9], [1])


@pytest.mark.parametrize(
    ("name", "output", "kind"),
    [
        ("y", np.int64([1, 2]), "ids"),
        ("y", np.array([True, False]), "ids"),
        ("y", np.float32([1, 2]), "number"),
        ("logits", np.float32([[1.5], [2]]), "number"),
        ("y", np.float32([[0.2, 0.8], [0.5, 0.5]]), "classes"),
        ("class_logits", np.float32([[1, 5], [-3, 2]]), "classes"),
        ("output", np.random.default_rng(0).normal(size=(2, 1000)), "classes"),
        ("embedding", np.float32([[1, 5], [-3, 2]]), "vectors"),
        ("y", np.full((2, 3, 4), 0.25), "sequences"),
        ("y", np.log(np.full((2, 3, 4), 0.25)), "sequences"),
        ("output0", suppressed((0, 0, 10, 10, 0.9, 1)), "boxes"),
        ("output0", suppressed((0, 0, 7.9, 7.9, 0.9, 1)), "vectors"),  # offsets and logarithms, of a grid's cells
        ("y", np.random.default_rng(0).uniform(0, 1, (2, 5, 7)), "maps"),
        ("pred_boxes", np.random.default_rng(0).uniform(0, 1, (2, 5, 4)), "number"),
        ("mask", np.random.default_rng(0).uniform(0, 1, (2, 1, 8, 8)), "maps"),
        ("spectrum", np.random.default_rng(0).normal(size=(2, 1, 9, 4)), "number"),
        ("hidden", np.random.default_rng(0).normal(size=(2, 5, 4)), "vectors"),
    ],
)
def test_what_an_output_is_taken_for(name: str, output: NDArray[Any], kind: KindName) -> None:
    assert guess(name, output, None).kind == kind


def test_with_a_mask_rows_of_tokens_are_hidden_states_or_numbers() -> None:
    mask = np.ones((2, 5), np.int64)
    assert guess("y", np.full((2, 5, 4), 0.25), mask).kind == "vectors"
    assert guess("y", np.zeros((2, 5, 1)), mask).kind == "number"
    assert guess("y", np.full((2, 4), 0.25), mask).kind == "classes"


def test_seven_of_seven_is_no_proof() -> None:
    # Wilson: 1 / (1 + 1.645^2 / 7)
    assert at_least(KINDS["classes"], np.ones(7)) == pytest.approx(1 / (1 + 1.645**2 / 7))
    assert at_least(KINDS["classes"], np.ones(1000)) == pytest.approx(0.9973, abs=1e-4)
    # Wilson at 0.5 of 100: (0.5 + z^2/200 - z sqrt(0.0025 + z^2/40000)) / (1 + z^2/100)
    assert at_least(KINDS["classes"], np.repeat([0.0, 1.0], 50)) == pytest.approx(0.4188, abs=1e-3)


def test_of_a_mean_the_bound_follows_from_the_spread() -> None:
    scores = np.array([0.9, 1.0] * 50)
    error = scores.std(ddof=1) / 10
    assert at_least(KINDS["vectors"], scores) == pytest.approx(0.95 - 1.66 * error, abs=1e-4)  # Student, 99 degrees
    assert at_least(KINDS["vectors"], np.ones(1)) == -1
