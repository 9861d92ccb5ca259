"""No clipping."""

from dataclasses import dataclass
from typing import ClassVar

from calib8.caches.cache import Algorithm
from calib8.calibration.statistics import TensorStatistics


@dataclass(frozen=True)
class MinMax:
    """The largest magnitude seen: nothing is clipped. TensorRT's ``IInt8MinMaxCalibrator``."""

    name: ClassVar[str] = "minmax"
    algorithm: ClassVar[Algorithm] = "MinMaxCalibration"
    histogram: ClassVar[bool] = False

    def amax(self, seen: TensorStatistics) -> float:
        """See ``Observer``."""
        return seen.amax
