"""Data in files take little memory, however large they are: they are looked at block by block, and rows read later."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.data import selected as rows
from calib8.data.batching import Dataset
from calib8.data.inputs import InputSpec
from calib8.data.selected import blocks, selected
from calib8.data.sources import Batches, NpyFolder, Source, fingerprint
from calib8.data.split import EVERY, First, split
from calib8.errors import DataError

MEBI = 1 << 20
IMAGES = (InputSpec("image", np.dtype(np.float32), ("batch", 3, 64, 64)),)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """47 MiB of images, in blocks of 1 MiB; on disk they are a hole."""
    monkeypatch.setattr(rows, "BLOCK", MEBI)
    np.lib.format.open_memmap(tmp_path / "image.npy", mode="w+", dtype=np.float32, shape=(1000, 3, 64, 64)).flush()
    return tmp_path


@pytest.mark.parametrize(
    "part",
    [
        lambda source: source,
        lambda source: split(source)[0],
        lambda source: split(split(source)[0])[0],
        lambda source: First(split(source)[0], 700),
    ],
    ids=["all", "fitted", "fitted of fitted", "first of fitted"],
)
def test_data_are_never_held_whole(folder: Path, part: Callable[[Source], Source]) -> None:
    tracemalloc.start()
    try:
        data = Dataset(part(NpyFolder(folder)), IMAGES)
        assert sum(len(arrays["image"]) for _, arrays in data.batches()) == len(data) >= 700
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * MEBI  # a batch of 16 images is 0.75 MiB, and hashing takes a block and a copy


@pytest.mark.parametrize("bad", [0, 437, 999])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_bad_sample_is_found_in_any_block(folder: Path, bad: int, value: float) -> None:
    images = np.load(folder / "image.npy", mmap_mode="r+")
    images[bad, 1, 2, 3] = images[999, 0, 0, 0] = value
    with pytest.raises(DataError, match=rf"image holds NaN or infinity \(first in sample {bad}\)"):
        Dataset(NpyFolder(folder), IMAGES)


def test_an_index_outside_the_table_is_found_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 16)  # two numbers
    specs = (InputSpec("ids", np.dtype(np.int64), ("batch",), limit=50),)
    ids = np.arange(50)
    assert len(Dataset(Batches({"ids": ids}), specs)) == 50
    for wrong in (50, -1):
        with pytest.raises(DataError, match=f"ids holds the index {wrong}, but the model's table has 50 rows"):
            Dataset(Batches({"ids": np.where(ids == 33, wrong, ids)}), specs)


def test_selected_rows_stand_for_an_array() -> None:
    array = np.arange(40, dtype=np.int32).reshape(10, 4)
    some = selected(selected(array, np.array([9, 1, 4, 7])), np.array([3, 0, 2]))
    expected = array[[7, 9, 4]]
    assert (some.shape, some.dtype, some.ndim, some.size, some.nbytes, len(some)) == ((3, 4), np.int32, 2, 12, 48, 3)
    assert np.asarray(some).tolist() == expected.tolist()
    assert np.asarray(some[1:]).tolist() == expected[1:].tolist()
    assert some[np.array([2, 0])].tolist() == expected[[2, 0]].tolist()
    assert some[-1].tolist() == expected[-1].tolist()
    assert np.count_nonzero(some) == 12
    assert np.asarray(some, np.int64).dtype == np.int64
    with pytest.raises(ValueError, match="got copy=False"):
        some.__array__(copy=False)


@given(st.integers(0, 40), st.integers(1, 100))
def test_blocks_are_all_rows_in_order(count: int, size: int) -> None:
    array = np.arange(count * 3, dtype=np.int16).reshape(count, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", size)
        found = list(blocks(array))
        assert [first for first, _ in found] == list(np.cumsum([0, *(len(block) for _, block in found)])[:-1])
        assert [row for _, block in found for row in block.tolist()] == array.tolist()
        assert all(block.nbytes <= max(size, 6) for _, block in found)
        # what a fingerprint is made of does not change with the blocks
        assert fingerprint([{"x": array}]) == fingerprint([{"x": selected(array, np.arange(count))}])


def test_a_part_has_the_fingerprint_of_its_rows() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    chosen = np.arange(40) % EVERY == EVERY - 1
    kept, held = split(Batches({"x": x}))
    assert kept.fingerprint() == fingerprint([{"x": x[~chosen]}])
    assert held.fingerprint() == fingerprint([{"x": x[chosen]}])
