"""A uniform sample of rows, bounded in size, the same whatever the order, batching or sharding of the data.

A row (one position of one sample) is kept if a hash of its coordinates falls below a threshold: no state, no order.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.float64(2**64)
#: 2**64 over the golden ratio, odd: its multiples are far from each other.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Spool:
    """Arrays kept in a temporary file: the rows of all tensors together may take more memory than the model does."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def append(self, array: NDArray[np.generic]) -> int:
        """Write ``array``; where it lies."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="calib8-rows-")  # noqa: SIM115  # closed with the spool
            weakref.finalize(self, self._file.close)
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(array).data)
        return offset

    def read(self, offset: int, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
        """What was written at ``offset``."""
        assert self._file is not None
        self._file.seek(offset)
        content = self._file.read(np.dtype(dtype).itemsize * math.prod(shape))
        return np.frombuffer(content, dtype).reshape(shape)


class RowSample:
    """Rows as float16, each over a power of two that keeps it from overflowing: 11 bits of each value, plenty to
    measure 8 bits with. They are kept in a spool."""

    def __init__(self, spool: Spool | None = None) -> None:
        self._spool = spool or Spool()
        self.parts: list[Part] = []

    def __len__(self) -> int:
        return sum(len(part.exponents) for part in self.parts)

    def add(
        self, rows: NDArray[np.float16], exponents: NDArray[np.integer[Any]], coordinates: NDArray[np.int64]
    ) -> None:
        """Keep ``rows * 2**exponents``, [n, values per row] and [n]; ``coordinates`` [n, 2]: sample, position in it."""
        if len(rows):
            offset = self._spool.append(rows)
            self.parts.append(Part(offset, rows.shape[1], exponents.astype(np.int32)[:, None], coordinates))

    def merge(self, other: RowSample) -> None:
        """Keep what ``other`` keeps as well."""
        for part in other.parts:
            self.parts.append(replace(part, offset=self._spool.append(other.read(part))))

    def rows(self) -> NDArray[np.float32]:
        """The kept rows [n, values per row] in the order of their coordinates; [0, 0] if there are none."""
        if not self.parts:
            return np.zeros((0, 0), np.float32)
        found = np.empty((len(self), self.parts[0].width), np.float32)
        coordinates = np.concatenate([part.coordinates for part in self.parts])
        place = np.empty(len(found), np.int64)
        place[np.lexsort(coordinates.T[::-1])] = np.arange(len(found))
        begin = 0
        for part in self.parts:
            end = begin + len(part.exponents)
            found[place[begin:end]] = np.ldexp(self.read(part).astype(np.float32), part.exponents)
            begin = end
        return found

    def read(self, part: Part) -> NDArray[np.float16]:
        """Rows that were added at once, over their powers of two."""
        return self._spool.read(part.offset, np.float16, (len(part.exponents), part.width))  # type: ignore[return-value]


@dataclass(frozen=True)
class Part:
    """Rows that were added at once: where they lie, ``exponents`` [n, 1] and ``coordinates`` [n, 2]."""

    offset: int
    width: int
    exponents: NDArray[np.int32]
    coordinates: NDArray[np.int64]


def keep_rows(samples: NDArray[np.int64], positions: int, fraction: float) -> NDArray[np.bool_]:
    """Which rows to keep: [len(samples), positions], each True with probability ``fraction``.

    ``samples`` are the numbers of the samples in the data set, so that a row's fate depends on its coordinates alone.
    """
    if fraction >= 1:
        return np.ones((len(samples), positions), np.bool_)
    numbers = _numbers(samples.astype(np.uint64)[:, None], np.arange(positions, dtype=np.uint64))
    return np.asarray(_mixed(numbers) < np.uint64(fraction * _LARGEST), np.bool_)


def _numbers(samples: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each row: another for each position below 2**63 of a sample, and for each sample at a position.

    The last 20 bits are those of the position, the others those of the sample. What is left of the position is spread
    over the latter, so that it meets no sample that is likely to exist.
    """
    low = positions & np.uint64(2**20 - 1)
    with np.errstate(over="ignore"):
        high = (positions >> np.uint64(20)) * _GOLDEN << np.uint64(20)
    return np.asarray(samples << np.uint64(20) ^ samples >> np.uint64(44) ^ low ^ high, np.uint64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): neighbouring numbers become unrelated ones."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)
