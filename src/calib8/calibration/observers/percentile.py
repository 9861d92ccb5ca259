"""Clipping by share."""

from dataclasses import dataclass
from typing import ClassVar

from calib8.caches.cache import Algorithm
from calib8.calibration.statistics import TensorStatistics, quantile


@dataclass(frozen=True)
class Percentile:
    """The magnitude that ``percentile`` percent of the values do not exceed (Wu et al., 2020, arXiv:2004.09602)."""

    name: ClassVar[str] = "percentile"
    algorithm: ClassVar[Algorithm] = "MinMaxCalibration"
    histogram: ClassVar[bool] = True

    percentile: float = 99.99

    def amax(self, seen: TensorStatistics) -> float:
        """See ``Observer``; exact to one histogram bin, at most 1/4096 of the largest magnitude."""
        return min(quantile(seen.values, self.percentile / 100), seen.amax)
