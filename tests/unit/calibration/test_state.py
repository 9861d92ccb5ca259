"""Statistics as arrays and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calib8.calibration.state import from_bytes, from_state, to_bytes, to_state
from calib8.calibration.statistics import TensorStatistics
from calib8.graph.window import point

floats = st.floats(-1e6, 1e6, width=32)
batches = st.lists(st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=4), max_size=5)


def observed(batches: list[list[tuple[float, float, float]]], first: int = 0) -> TensorStatistics:
    """Statistics of rows of three values, all of which are kept, half of them as a Conv sees them."""
    seen = TensorStatistics()
    for number, batch in enumerate(batches, start=first):
        rows = np.array(batch, np.float32)
        seen.add(rows.min(axis=0), rows.max(axis=0), np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1)))
        seen.values.add(np.abs(rows))
        coordinates = np.stack([np.full(len(rows), number), np.arange(len(rows))], axis=1)
        exponents = np.frexp(np.abs(rows).max(axis=1))[1]
        kept = np.ldexp(rows, -exponents[:, None]).astype(np.float16)
        seen.sample(point(2) if number % 2 else None).add(kept, exponents, coordinates)
    return seen


def content(seen: TensorStatistics) -> dict[str, NDArray[np.generic] | tuple[object, ...] | None]:
    """All that can be asked of statistics."""
    found: dict[str, NDArray[np.generic] | tuple[object, ...] | None] = {
        "range": (seen.minimum, seen.maximum, seen.values.exponent, seen.rows.exponent),
        "low": seen.channel_minimum,
        "high": seen.channel_maximum,
        "values": seen.values.counts,
        "rows": seen.rows.counts,
    }
    return found | {f"sample {window}": sample.rows() for window, sample in seen.samples.items()}


def same(one: TensorStatistics, two: TensorStatistics) -> bool:
    a, b = content(one), content(two)
    return list(a) == list(b) and all(_bits(a[key]) == _bits(b[key]) for key in a)


def _bits(given: object) -> tuple[object, ...]:
    array = np.asarray(given)
    return array.shape, array.tolist() if array.dtype.hasobject else array.tobytes()


@given(batches)
def test_statistics_come_back_to_the_bit(found: list[list[tuple[float, float, float]]]) -> None:
    before = {"a/b:0": observed(found), "empty": TensorStatistics()}
    after = from_bytes(to_bytes(before))
    assert list(after) == ["a/b:0", "empty"]
    assert all(same(before[name], after[name]) for name in before)


@given(batches, batches)
def test_what_was_sent_merges_as_what_was_not(
    one: list[list[tuple[float, float, float]]], two: list[list[tuple[float, float, float]]]
) -> None:
    merged = observed(one)
    merged.merge(observed(two, first=len(one)))
    sent = from_state(to_state({"x": observed(one)}))["x"]
    sent.merge(from_state(to_state({"x": observed(two, first=len(one))}))["x"])
    assert same(merged, sent)


def test_a_row_whose_largest_value_was_rounded_to_a_power_of_two_keeps_its_last_bit() -> None:
    """To find its power of two again would choose the next, and halve a value that has no half in float16."""
    rows = np.array([[1, 2.0**-24 * 3]], np.float16)
    seen = TensorStatistics()
    seen.sample().add(rows, np.array([1]), np.zeros((1, 2), np.int64))
    back = from_state(to_state({"x": seen}))["x"]
    assert back.sample().rows().tolist() == [[2, 2.0**-23 * 3]]


def test_a_file_holds_little_of_the_empty_bins() -> None:
    """Two histograms of 8192 counts would take 128 KiB."""
    assert len(to_bytes({"x": observed([[(1.0, 2.0, 3.0)]])})) < 6000
