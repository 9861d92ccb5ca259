"""Options of calibration."""

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from calib8.calibration.observers import ObserverName
from calib8.calibration.observers.percentile import Percentile
from calib8.config import Config

TensorChoice: TypeAlias = Literal["weighted", "all"]


class Calibrate(Config):
    """How ranges are found.

    observer: what turns statistics into amax, see ``calibration.observers``.
    percentile: for the percentile observer, in percent.
    tensors: which get a range: those that weighted ops read, which is all that Q/DQ needs, or all float ones of the
        graph, as a TensorRT calibrator writes them, see ``calibration.every``.
    """

    observer: ObserverName = "minmax"
    percentile: float = Field(default=Percentile.percentile, gt=50, le=100)
    tensors: TensorChoice = "weighted"

    @model_validator(mode="after")
    def _combination(self) -> "Calibrate":
        if self.observer != "percentile" and self.percentile != type(self).model_fields["percentile"].default:
            raise ValueError(
                f"a percentile is for the observer percentile, and {self.observer} was chosen (--observer percentile)"
            )
        return self
