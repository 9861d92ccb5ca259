"""Arrays that may be larger than memory, because they are mapped from a file: some rows of them, and block by block."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

#: Bytes that are looked at at once.
BLOCK = 1 << 24


class Selected:
    """The ``rows`` of an ``array``, read from it when they are asked for: a copy would take the memory of all of them.

    It does what is asked of the arrays of a chunk: it has their shape and dtype, a slice of it is not read yet either,
    rows by their numbers are an array, and NumPy's functions take it as the array that it stands for.
    """

    def __init__(self, array: NDArray[np.generic], rows: NDArray[np.int64]) -> None:
        self.array, self.rows = array, rows
        self.dtype, self.ndim = array.dtype, array.ndim
        self.shape = (len(rows), *array.shape[1:])
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = self.size * array.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | int | NDArray[np.integer[Any]]) -> "Selected | NDArray[np.generic]":
        rows = self.rows[index]
        return Selected(self.array, rows) if isinstance(index, slice) else np.asarray(self.array[rows])

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        if copy is False:
            raise ValueError("got copy=False, but rows are copied when they are read: leave it away")
        return np.asarray(self.array[self.rows], dtype)


def selected(array: NDArray[np.generic], rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """``array[rows]``, read when it is asked for. It is a ``Selected``, which does for an array wherever chunks go."""
    if isinstance(array, Selected):
        array, rows = array.array, array.rows[rows]
    return cast("NDArray[np.generic]", Selected(array, rows))


def as_rows(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """``array`` as NumPy's, unless its rows are yet to be read."""
    return array if isinstance(array, Selected) else np.asarray(array)


def blocks(array: NDArray[np.generic]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """(number of the first row, rows) from the first row to the last, about ``BLOCK`` bytes at a time."""
    if array.ndim == 0:
        yield 0, array
        return
    rows = max(1, BLOCK * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        yield first, np.asarray(array[first : first + rows])
