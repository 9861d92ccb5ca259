"""Options of calibration."""

from pydantic import Field, model_validator

from calib8.calibration.observers import ObserverName
from calib8.calibration.observers.percentile import Percentile
from calib8.config import Config


class Calibrate(Config):
    """How ranges are found.

    observer: what turns statistics into amax, see ``calibration.observers``.
    percentile: for the percentile observer, in percent.
    """

    observer: ObserverName = "minmax"
    percentile: float = Field(default=Percentile.percentile, gt=50, le=100)

    @model_validator(mode="after")
    def _combination(self) -> "Calibrate":
        if self.observer != "percentile" and self.percentile != type(self).model_fields["percentile"].default:
            raise ValueError(
                f"a percentile is for the observer percentile, and {self.observer} was chosen (--observer percentile)"
            )
        return self
