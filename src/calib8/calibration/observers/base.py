"""What every observer is."""

from typing import ClassVar, Protocol

from calib8.caches.cache import Algorithm
from calib8.calibration.statistics import TensorStatistics


class Observer(Protocol):
    """Chooses amax from statistics."""

    #: What users call it.
    name: ClassVar[str]
    #: The algorithm that a calibration cache of its ranges names. TensorRT knows no percentile or MSE calibrator: what
    #: such ranges are to it is what a min/max calibrator would have found.
    algorithm: ClassVar[Algorithm]
    #: Whether it looks at the histogram of values.
    histogram: ClassVar[bool]

    def amax(self, seen: TensorStatistics) -> float:
        """The largest magnitude the INT8 grid should represent, > 0 unless the tensor is all zero."""
