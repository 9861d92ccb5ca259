"""Clipping by divergence."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.caches.cache import Algorithm
from calib8.calibration.statistics import Histogram, TensorStatistics
from calib8.numerics import LEVELS


@dataclass(frozen=True)
class Entropy:
    """The clip range whose INT8 histogram diverges least from the clipped original (Kullback-Leibler).

    After S. Migacz, "8-bit Inference with TensorRT", GTC 2017: for every clip range from 128 bins up, put the clipped
    tail into the last bin, spread 128 levels evenly over the occupied bins, and take the range with the least KL.
    The lowest bin counts as much as its neighbour (as in NVIDIA's pytorch-quantization): every grid represents the
    exact zeros after a ReLU, and their peak would otherwise ask for the finest grid, whatever it clips.
    ``bins`` must exceed 128 for a search to take place.
    """

    name: ClassVar[str] = "entropy"
    algorithm: ClassVar[Algorithm] = "EntropyCalibration2"
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
