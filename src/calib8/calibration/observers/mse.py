"""Clipping by squared error."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.caches.cache import Algorithm
from calib8.calibration.statistics import Histogram, TensorStatistics
from calib8.numerics import LEVELS


@dataclass(frozen=True)
class Mse:
    """The clip range with the least mean squared error over the histogram (Sung et al., 2015, arXiv:1511.06488)."""

    name: ClassVar[str] = "mse"
    algorithm: ClassVar[Algorithm] = "MinMaxCalibration"
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
