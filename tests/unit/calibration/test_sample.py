import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.calibration.sample import _numbers, keep_rows

fractions = st.floats(0, 1)
large = st.integers(0, 2**63 - 1) | st.integers(0, 2**44).map(lambda high: high << 18)
numbers = st.lists(st.integers(0, 2**40), min_size=1, max_size=8, unique=True)


@given(numbers, st.integers(1, 9), fractions, st.randoms())
def test_a_row_is_kept_whatever_its_batch(samples: list[int], positions: int, fraction: float, random) -> None:
    whole = dict(zip(samples, keep_rows(np.array(samples), positions, fraction), strict=True))
    random.shuffle(samples)
    longer = keep_rows(np.array(samples), positions + 3, fraction)  # the same sentences in a batch with more padding
    for sample, kept in zip(samples, longer, strict=True):
        assert kept[:positions].tolist() == whole[sample].tolist()
        assert keep_rows(np.array([sample]), positions, fraction)[0].tolist() == whole[sample].tolist()


@given(numbers, fractions, fractions)
def test_a_larger_fraction_keeps_more_of_the_same(samples: list[int], one: float, other: float) -> None:
    few, many = (keep_rows(np.array(samples), 4, fraction) for fraction in sorted((one, other)))
    assert not (few & ~many).any()


@pytest.mark.parametrize("fraction", [1, 1.5, 1e9])
def test_all(fraction: float) -> None:
    assert keep_rows(np.arange(3), 2, fraction).tolist() == [[True, True]] * 3


def test_none() -> None:
    assert not keep_rows(np.arange(100), 100, 0.0).any()


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("samples", "positions"), [(200_000, 1), (2_000, 100), (1, 200_000)])
def test_the_fraction_is_met(samples: int, positions: int, fraction: float) -> None:
    count = samples * positions
    deviation = np.sqrt(count * fraction * (1 - fraction))  # of a binomial
    kept = np.count_nonzero(keep_rows(np.arange(samples), positions, fraction))
    assert abs(kept - count * fraction) < 4 * deviation


@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_are_unrelated(axis: int) -> None:
    kept = keep_rows(np.arange(400), 400, 0.5).astype(float)
    near, far = (kept[:-1], kept[1:]) if axis == 0 else (kept[:, :-1], kept[:, 1:])
    # independent bits agree half the time, with a standard deviation of 0.5 / sqrt(399 x 400) = 0.00125
    assert np.mean(near == far) == pytest.approx(0.5, abs=0.005)


def test_the_same_rows_are_kept_as_ever() -> None:
    """What is kept decides what a model's INT8 form is: another version must not choose others of the same data."""
    kept = keep_rows(np.array([0, 1, 7, 2**43]), 16, 0.5)
    assert [int("".join(map(str, row.astype(int))), 2) for row in kept] == [7474, 44962, 29934, 40924]


@given(large, st.lists(large, min_size=2, max_size=9, unique=True))
def test_rows_far_out_are_rows_of_their_own(one: int, others: list[int]) -> None:
    alone, many = np.array([one], np.uint64), np.array(others, np.uint64)
    assert len(set(_numbers(alone, many).tolist())) == len(others)
    assert len(set(_numbers(many, alone).tolist())) == len(others)


def test_a_long_sample_is_not_mixed_with_the_next_ones() -> None:
    far = keep_rows(np.array([0]), 2**20 + 40_000, 0.5)[0, 2**20 :]
    for sample in (0, 1):
        # independent bits agree half the time, with a standard deviation of 0.5 / sqrt(40,000) = 0.0025
        assert np.mean(far == keep_rows(np.array([sample]), 40_000, 0.5)[0]) == pytest.approx(0.5, abs=0.01)
