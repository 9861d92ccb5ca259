import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from seen_rows import add_rows, halves, keep

from calib8.calibration.sample import RowSample
from calib8.calibration.state import to_bytes
from calib8.calibration.statistics import BINS, Histogram, TensorStatistics, quantile
from calib8.graph.window import Window

floats = st.floats(-(2.0**120), 2.0**120, width=32)
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=floats)


def histogram_of(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(np.abs(np.asarray(array, np.float32)))
    return histogram


def state(histogram: Histogram) -> tuple[int | None, list[int]]:
    return histogram.exponent, histogram.counts.tolist()


def test_bins_by_hand() -> None:
    # 1.0 < 8192 * 2^-12 = 2 is the smallest such power of two: width 2^-12, and 1.0 lies in bin 4096
    histogram = histogram_of([0.0, 0.0, 1.0])
    assert histogram.width == 2.0**-12
    assert (histogram.counts[0], histogram.counts[4096], histogram.counts.sum()) == (2, 1, 3)
    # 4.0 needs width 2^-10: 1.0 moves to bin 1024, 4.0 lies in bin 4096
    histogram.add(np.float32([4.0]))
    assert histogram.width == 2.0**-10
    assert np.flatnonzero(histogram.counts).tolist() == [0, 1024, 4096]


@given(st.lists(hnp.arrays(np.float32, st.integers(0, 8), elements=floats), min_size=1, max_size=5), st.randoms())
def test_histogram_is_independent_of_order_and_split(parts: list[np.ndarray], random) -> None:
    whole = histogram_of(np.concatenate(parts))
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert state(histogram_of(*shuffled)) == state(whole)
    assert whole.counts.sum() == sum(map(len, parts))


@given(*[hnp.arrays(np.float32, st.integers(0, 8), elements=floats)] * 3)
def test_merge_is_associative_and_commutative(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    left, right = histogram_of(a), histogram_of(c)
    left.merge(histogram_of(b))
    left.merge(histogram_of(c))
    bc = histogram_of(b)
    right.merge(bc)  # c + b
    right.merge(histogram_of(a))
    assert state(left) == state(right) == state(histogram_of(a, b, c))
    nested = histogram_of(b)
    nested.merge(histogram_of(c))
    outer = histogram_of(a)
    outer.merge(nested)
    assert state(outer) == state(left)


@given(st.floats(2.0**-149, 2.0**127, width=32))
def test_the_largest_value_lies_in_the_upper_half(largest: float) -> None:
    histogram = histogram_of([largest])
    (index,) = np.flatnonzero(histogram.counts)
    assert BINS / 2 <= index < BINS
    assert index * histogram.width <= largest < (index + 1) * histogram.width


@given(st.lists(rows, min_size=1, max_size=4))
@example([np.float32([[-0.0, 0, 1]]), np.float32([[0, -0.0, 1]])])  # neither zero is less than the other
def test_statistics_are_independent_of_split_and_order(parts: list[np.ndarray]) -> None:
    """To the bit, as what is kept of them is."""
    forwards, backwards, merged = TensorStatistics(), TensorStatistics(), TensorStatistics()
    for part in parts:
        add_rows(forwards, part)
        single = TensorStatistics()
        for row in part:
            add_rows(single, row[None])
        merged.merge(single)
    for part in reversed(parts):
        add_rows(backwards, part[::-1])
    assert to_bytes({"x": forwards}) == to_bytes({"x": backwards}) == to_bytes({"x": merged})
    assert forwards.amax == max(float(np.abs(part).max()) for part in parts)


def test_row_power_by_hand() -> None:
    seen = TensorStatistics()
    add_rows(seen, np.float32([[3, -4], [0, 0]]))
    assert (seen.minimum, seen.maximum, seen.amax) == (-4, 3, 4)
    # the root mean square of (3, -4) is sqrt(25 / 2) = 3.5355; its bin has width 2^-11
    assert quantile(seen.rows, 1.0) == pytest.approx(3.5355, abs=2.0**-11)


def test_huge_values_do_not_overflow() -> None:
    seen = TensorStatistics()
    add_rows(seen, np.full((1, 4), 1e38, np.float32))  # 1e38 squared is beyond float32
    assert quantile(seen.rows, 0.5) == pytest.approx(1e38, rel=1e-3)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    # ten values 1..10, bins of 2^-9: the q quantile is the upper edge of the bin of value 10 q
    [(0.1, 1 + 2**-9), (0.5, 5 + 2**-9), (0.55, 6 + 2**-9), (1.0, 10 + 2**-9)],
)
def test_quantile(fraction: float, expected: float) -> None:
    assert quantile(histogram_of(np.arange(1, 11)), fraction) == expected


def test_all_zero() -> None:
    seen = TensorStatistics()
    add_rows(seen, np.zeros((3, 4), np.float32))
    assert (seen.amax, seen.values.exponent, seen.values.width, quantile(seen.values, 0.5)) == (0, None, 0, 0)
    assert seen.values.counts[0] == 12


def test_channels_by_hand() -> None:
    seen = TensorStatistics()
    add_rows(seen, np.float32([[3, -4], [1, 0]]))
    add_rows(seen, np.float32([[-1, 2]]))
    other = TensorStatistics()
    add_rows(other, np.float32([[0, -9]]))
    seen.merge(other)
    assert seen.channel_minimum.tolist() == [-1, -9]
    assert seen.channel_maximum.tolist() == [3, 2]


def test_the_sample_holds_what_was_added_in_the_order_of_coordinates() -> None:
    seen, other = RowSample(), RowSample()
    assert seen.rows().shape == (0, 0)
    seen.add(*halves(np.float32([[5, 6], [1, 2]])), np.array([[1, 3], [0, 7]]))
    seen.add(*halves(np.zeros((0, 2), np.float32)), np.zeros((0, 2), np.int64))
    assert seen.rows().tolist() == [[1, 2], [5, 6]]
    other.add(*halves(np.float32([[0, -1]])), np.array([[1, 2]]))
    seen.merge(other)
    assert seen.rows().tolist() == [[1, 2], [0, -1], [5, 6]]
    assert (len(seen), len(other)) == (3, 1)
    assert seen.rows().dtype == np.float32


def test_each_view_has_a_sample_of_its_own() -> None:
    window = Window(kernel=(2,), strides=(1,), dilations=(1,), before=(0,), after=(0,))
    seen, other = TensorStatistics(), TensorStatistics()
    add_rows(seen, np.float32([[9, 9]]))
    assert (len(seen.sample()), len(seen.sample(window))) == (0, 0)  # what is added to the ranges is not sampled
    keep(seen, np.float32([[1, 2]]))
    keep(seen, np.float32([[1, 2, 3, 4]]), window)
    keep(other, np.float32([[5, 6, 7, 8]]), window)
    seen.merge(other)
    assert seen.sample().rows().tolist() == [[1, 2]]
    assert seen.sample(window).rows().tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)))
def test_the_sample_keeps_eleven_bits_of_any_magnitude(array: np.ndarray) -> None:
    seen = RowSample()
    seen.add(*halves(array), np.zeros((3, 2), np.int64))
    largest = np.abs(array).max(axis=1, keepdims=True)
    error = np.abs(seen.rows().astype(np.float64) - array)
    # half a unit in the last of 11 bits; below 2^-14 of the row's amax, float16 counts in steps of 2^-24
    assert (error <= np.maximum(np.abs(array) * 2.0**-11, largest * 2.0**-24) + 2.0**-149).all()


def test_ragged_samples_have_no_channels() -> None:
    seen = TensorStatistics()
    add_rows(seen, np.float32([[1, 2, 3]]))
    add_rows(seen, np.float32([[5, -4]]))
    assert (seen.minimum, seen.maximum) == (-4, 5)
