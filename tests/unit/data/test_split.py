from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data.batching import Dataset
from calib8.data.inputs import InputSpec
from calib8.data.sources import Batches, NpyFolder
from calib8.data.split import EVERY, First, split
from calib8.errors import DataError


def numbers(source) -> list[int]:
    return [int(number) for chunk in source.chunks() for number in np.asarray(chunk["x"])]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= 3 * EVERY))
def test_every_sample_is_in_one_part_whatever_the_chunks(sizes: list[int]) -> None:
    total = sum(sizes)
    chunks = np.split(np.arange(total), np.cumsum(sizes)[:-1])
    kept, held = split(Batches([{"x": chunk, "y": -chunk} for chunk in chunks]))
    assert numbers(held) == list(range(EVERY - 1, total, EVERY))
    assert sorted(numbers(kept) + numbers(held)) == list(range(total))
    for part in (kept, held):
        assert all((np.asarray(chunk["x"]) == -np.asarray(chunk["y"])).all() for chunk in part.chunks())
        assert part.fingerprint() == part.fingerprint()
    assert kept.fingerprint() != held.fingerprint()


def test_too_few_samples() -> None:
    with pytest.raises(DataError, match=r"2 samples would be held back .*at least 3 \(one in 8\).*--held-out"):
        split(Batches({"x": np.arange(23)}))
    split(Batches({"x": np.arange(24)}))


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ({"x": np.arange(40), "y": np.arange(39)}, r"different numbers of samples: \{'x': 40, 'y': 39\}"),
        ({"x": np.arange(40), "y": np.float32(3)}, "y holds a single number; expected an array"),
        ({"x": np.int64(3)}, "x holds a single number"),
    ],
)
def test_arrays_that_do_not_go_together(chunk: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(Batches(chunk))


def test_a_bad_sample_is_told_by_its_number_in_the_source(tmp_path: Path) -> None:
    x = np.ones((64, 4), np.float32)
    x[55, 2] = np.nan
    specs = (InputSpec("x", np.dtype(np.float32), ("batch", 4)),)
    kept, held = split(Batches({"x": x}))
    with pytest.raises(DataError, match=r"x holds NaN or infinity \(first in sample 55\)"):
        Dataset(held, specs)
    Dataset(kept, specs)
    for number in range(2):
        np.savez(tmp_path / f"b{number}.npz", x=x[32 * number :][:32])
    for source in (NpyFolder(tmp_path), split(NpyFolder(tmp_path))[1], First(NpyFolder(tmp_path), 60)):
        with pytest.raises(DataError, match=r"x holds NaN or infinity \(first in sample 23 of b1.npz\)"):
            Dataset(source, specs)
