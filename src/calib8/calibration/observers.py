"""Observers: from what was seen of a tensor to the amax that its INT8 grid reaches. One small class each."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.statistics import Histogram, TensorStatistics, quantile
from calib8.errors import ConfigError
from calib8.numerics import LEVELS


class Observer(Protocol):
    """Chooses amax from statistics."""

    #: Whether it looks at the histogram of values.
    histogram: ClassVar[bool]

    def amax(self, seen: TensorStatistics) -> float:
        """The largest magnitude the INT8 grid should represent, > 0 unless the tensor is all zero."""


@dataclass(frozen=True)
class MinMax:
    """The largest magnitude seen: nothing is clipped. TensorRT's ``IInt8MinMaxCalibrator``."""

    histogram: ClassVar[bool] = False

    def amax(self, seen: TensorStatistics) -> float:
        """See ``Observer``."""
        return seen.amax


@dataclass(frozen=True)
class Percentile:
    """The magnitude that ``percentile`` percent of the values do not exceed (Wu et al., 2020, arXiv:2004.09602)."""

    histogram: ClassVar[bool] = True

    percentile: float = 99.99

    def amax(self, seen: TensorStatistics) -> float:
        """See ``Observer``; exact to one histogram bin, at most 1/4096 of the largest magnitude."""
        return min(quantile(seen.values, self.percentile / 100), seen.amax)


@dataclass(frozen=True)
class Mse:
    """The clip range with the least mean squared error over the histogram (Sung et al., 2015, arXiv:1511.06488)."""

    histogram: ClassVar[bool] = True

    candidates: int = 128

    def amax(self, seen: TensorStatistics) -> float:
        """See ``Observer``; searched over ``candidates`` even steps up to the largest magnitude."""
        centres, counts = _occupied(seen.values)
        if not len(centres):
            return seen.amax
        # Below LEVELS / 2 bins the grid would be finer than the histogram and the error could not be told.
        lowest = min(LEVELS / 2 * seen.values.width, seen.amax)
        clips = np.unique(np.append(np.linspace(seen.amax / self.candidates, seen.amax, self.candidates), seen.amax))
        clips = clips[clips >= lowest]
        errors = [_squared_error(centres, counts, float(clip)) for clip in clips]
        return float(clips[int(np.argmin(errors))])


@dataclass(frozen=True)
class Entropy:
    """The clip range whose INT8 histogram diverges least from the clipped original (Kullback-Leibler).

    After S. Migacz, "8-bit Inference with TensorRT", GTC 2017: for every clip range from 128 bins up, put the clipped
    tail into the last bin, spread 128 levels evenly over the occupied bins, and take the range with the least KL.
    The lowest bin counts as much as its neighbour (as in NVIDIA's pytorch-quantization): every grid represents the
    exact zeros after a ReLU, and their peak would otherwise ask for the finest grid, whatever it clips.
    ``bins`` must exceed 128 for a search to take place.
    """

    histogram: ClassVar[bool] = True

    bins: int = 2048

    def amax(self, seen: TensorStatistics) -> float:
        """See ``Observer``; exact to one of ``bins`` bins over the largest magnitude."""
        if seen.values.exponent is None:
            return seen.amax
        counts = _coarse(seen.values, seen.amax, self.bins)
        levels = LEVELS + 1
        best, best_divergence = len(counts), np.inf
        for size in range(levels, len(counts) + 1):
            divergence = _divergence(counts, size, levels)
            if divergence < best_divergence:
                best, best_divergence = size, divergence
        return min(seen.amax, seen.amax * best / len(counts))


def observer_for(name: str, percentile: float = 99.99) -> Observer:
    """The observer of that name. Raises ``ConfigError`` that lists the valid names."""
    if not 50 < percentile <= 100:
        raise ConfigError(f"percentile {percentile}: expected more than 50 and at most 100, e.g. 99.99.")
    observers: dict[str, Observer] = {
        "minmax": MinMax(),
        "percentile": Percentile(percentile),
        "mse": Mse(),
        "entropy": Entropy(),
    }
    if name not in observers:
        raise ConfigError(f"unknown observer {name!r}: expected one of {', '.join(observers)}.")
    return observers[name]


def _occupied(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres and counts of the bins that hold something."""
    if histogram.exponent is None:
        return np.zeros(0), np.zeros(0, np.int64)
    index = np.flatnonzero(histogram.counts)
    return np.asarray((index + 0.5) * histogram.width, np.float64), histogram.counts[index]


def _squared_error(centres: NDArray[np.float64], counts: NDArray[np.int64], clip: float) -> float:
    step = clip / LEVELS
    rounded = np.minimum(np.rint(centres / step), LEVELS) * step
    return float((counts * np.square(centres - rounded)).sum())


def _coarse(histogram: Histogram, amax: float, bins: int) -> NDArray[np.float64]:
    """The histogram over [0, amax] in ``bins`` equal bins, each fine bin shared by what it overlaps; no zero peak.

    Counting whole fine bins by their centre would alternate between, say, 2 and 3 per coarse bin: a comb that KL sees.
    """
    cumulative = np.append(0, np.cumsum(histogram.counts))
    edges = np.append(np.arange(bins) * (amax / bins), np.inf)
    coarse = np.diff(np.interp(edges, np.arange(len(cumulative)) * histogram.width, cumulative))
    coarse[0] = coarse[1]
    return np.asarray(coarse, np.float64)


def _divergence(counts: NDArray[np.float64], size: int, levels: int) -> float:
    """KL(P || Q) of the reference P, the first ``size`` bins with the tail in the last, and its ``levels`` levels Q.

    Q is made from the bins without the tail: what clipping moves into the last bin is what the divergence must see.
    """
    inside = counts[:size]
    reference = inside.copy()
    reference[-1] += counts[size:].sum()
    level = (np.arange(size) * levels) // size
    occupied = inside > 0
    totals = np.bincount(level, weights=inside, minlength=levels)
    members = np.bincount(level, weights=occupied, minlength=levels)
    spread = np.where(occupied, totals[level] / np.maximum(members[level], 1), 0.0)
    held = reference > 0
    p, q = reference[held] / reference.sum(), spread[held] / max(spread.sum(), 1e-300)
    if (q == 0).any():  # the tail fell into a bin that was empty: no level represents it
        q = np.maximum(q, 1e-12)
    return float((p * np.log(p / q)).sum())
