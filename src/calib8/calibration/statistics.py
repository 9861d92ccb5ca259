"""What one streaming pass remembers of a tensor: bounded in memory, exact under any order or split of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.sample import RowSample, Spool

if TYPE_CHECKING:
    from calib8.graph.window import Window

#: Histogram bins. A histogram in use always has between BINS / 2 and BINS bins below its amax.
BINS = 8192


class Histogram:
    """Counts of |x| in equal bins whose width is a power of two.

    The width doubles, and neighbouring bins merge, whenever a larger value arrives. Since every bin edge is a multiple
    of a power of two, merging is exact: the result does not depend on the order of the data, and ``merge`` is
    associative and commutative.
    """

    def __init__(self) -> None:
        self.exponent: int | None = None  # bin width is 2**exponent; None until a value other than 0 was seen
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(2.0**self.exponent) if self.exponent is not None else 0.0

    def add(self, magnitude: NDArray[np.float32]) -> None:
        """Count ``magnitude`` (values of |x|, any shape, finite)."""
        largest = float(magnitude.max(initial=0.0))
        if largest == 0.0:
            self.counts[0] += magnitude.size
            return
        self._widen(_exponent_for(largest))
        assert self.exponent is not None
        # Scaling by a power of two is exact in binary floating point; the cast truncates towards the bin's lower edge.
        index = (magnitude.reshape(-1) * np.float64(2.0**-self.exponent)).astype(np.int32)
        self.counts += np.bincount(index, minlength=BINS)

    @classmethod
    def of(cls, counts: NDArray[np.int64], exponent: int) -> Histogram:
        """Values that were counted elsewhere, in bins of width ``2**exponent``; all of them 0 if bin 0 holds all."""
        counted = cls()
        counted.exponent = exponent if counts[1:].any() else None
        counted.counts = counts
        return counted

    def merge(self, other: Histogram) -> None:
        """Add the counts of ``other``."""
        if other.exponent is not None:
            self._widen(other.exponent)
            assert self.exponent is not None
            self.counts += _merged(other.counts, self.exponent - other.exponent)
        else:
            self.counts[0] += other.counts[0]

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.counts = _merged(self.counts, exponent - self.exponent)
            self.exponent = exponent


class TensorStatistics:
    """Range of the tensor and of each channel, histogram of the RMS of each row, of |x| where it is wanted, rows.

    A row is what one position holds: the channels (axis 1) of a tensor that a Conv reads, the last axis of one that a
    MatMul or Gemm reads or of rank 2 or 3, a whole sample otherwise. ``samples`` holds rows by the window that a Conv
    sees them through, under None as they are; all are kept in ``spool``.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.channel_minimum: NDArray[np.float32] | None = None
        self.channel_maximum: NDArray[np.float32] | None = None
        self.samples: dict[Window | None, RowSample] = {}
        self.values = Histogram()
        self.rows = Histogram()
        self._spool = spool or Spool()

    @property
    def amax(self) -> float:
        """Largest |x| seen."""
        return max(abs(self.minimum), abs(self.maximum))

    def add(self, low: NDArray[np.float32], high: NDArray[np.float32], rms: NDArray[np.float32]) -> None:
        """Add rows: the extremes [values per row] of every channel, and the root mean square of every row, any shape.

        ``values`` are added by whoever counted them.
        """
        low, high = low + np.float32(0), high + np.float32(0)  # -0 becomes 0: neither is less, so order would choose
        self._widen_channels(low, high)
        self.minimum = min(self.minimum, float(low.min()))
        self.maximum = max(self.maximum, float(high.max()))
        self.rows.add(rms)

    def sample(self, window: Window | None = None) -> RowSample:
        """The kept rows as ``window`` sees them; what is added to it is kept."""
        return self.samples.setdefault(window, RowSample(self._spool))

    def _widen_channels(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        if self.channel_minimum is None or self.channel_maximum is None:
            self.channel_minimum, self.channel_maximum = low, high
        elif self.channel_minimum.shape == low.shape:  # ragged samples of a tensor without channels
            self.channel_minimum = np.minimum(self.channel_minimum, low)
            self.channel_maximum = np.maximum(self.channel_maximum, high)

    def merge(self, other: TensorStatistics) -> None:
        """Add everything that ``other`` has seen."""
        if other.channel_minimum is not None and other.channel_maximum is not None:
            self._widen_channels(other.channel_minimum, other.channel_maximum)
        for window, sample in other.samples.items():
            self.sample(window).merge(sample)
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.values.merge(other.values)
        self.rows.merge(other.rows)


def quantile(histogram: Histogram, fraction: float) -> float:
    """Upper edge of the bin in which the ``fraction`` quantile of the counted values lies; 0 if all are 0."""
    if histogram.exponent is None:
        return 0.0
    reached = np.cumsum(histogram.counts)
    index = int(np.searchsorted(reached, fraction * reached[-1], side="left"))
    return (index + 1) * histogram.width


def _exponent_for(largest: float) -> int:
    """Smallest e with largest < BINS * 2**e."""
    return int(np.frexp(largest)[1]) - int(np.log2(BINS))


def _merged(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    if doublings >= np.log2(BINS):
        merged = np.zeros(BINS, np.int64)
        merged[0] = counts.sum()
        return merged
    groups = counts.reshape(-1, 1 << doublings).sum(axis=1)
    return np.concatenate([groups, np.zeros(BINS - len(groups), np.int64)])
