"""A uniform sample of rows, bounded in size, the same whatever the order, batching or sharding of the data.

A row (one position of one sample) is kept if a hash of its coordinates falls below a threshold: no state, no order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.float64(2**64)


class RowSample:
    """Rows as float16, each over a power of two that holds its amax: 11 bits of each value, plenty to measure 8 bits
    with, and none overflows."""

    def __init__(self) -> None:
        self._kept: list[tuple[NDArray[np.float16], NDArray[np.int32]]] = []

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self._kept)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Keep ``rows`` [n, values per row]."""
        if len(rows):
            exponents = np.frexp(np.abs(rows).max(axis=1, keepdims=True))[1]
            self._kept.append((np.ldexp(rows, -exponents).astype(np.float16), exponents))

    def merge(self, other: RowSample) -> None:
        """Keep what ``other`` keeps as well."""
        self._kept += other._kept

    def rows(self) -> NDArray[np.float32]:
        """The kept rows [n, values per row], in no particular order; [0, 0] if there are none."""
        unpacked = [np.ldexp(rows.astype(np.float32), exponents) for rows, exponents in self._kept]
        return np.concatenate(unpacked) if unpacked else np.zeros((0, 0), np.float32)


def keep_rows(samples: NDArray[np.int64], positions: int, fraction: float) -> NDArray[np.bool_]:
    """Which rows to keep: [len(samples), positions], each True with probability ``fraction``.

    ``samples`` are the numbers of the samples in the data set, so that a row's fate depends on its coordinates alone.
    """
    if fraction >= 1:
        return np.ones((len(samples), positions), np.bool_)
    coordinates = (samples.astype(np.uint64)[:, None] << np.uint64(20)) | np.arange(positions, dtype=np.uint64)
    return np.asarray(_mixed(coordinates) < np.uint64(fraction * _LARGEST), np.bool_)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): neighbouring numbers become unrelated ones."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)
