"""Options of calibration."""

from typing import Literal, TypeAlias

from pydantic import Field

from calib8.config import Config

ObserverName: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]


class Calibrate(Config):
    """How ranges are found.

    observer: what turns statistics into amax, see ``calibration.observers``.
    percentile: for the percentile observer, in percent.
    """

    observer: ObserverName = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)
