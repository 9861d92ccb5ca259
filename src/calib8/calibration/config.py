"""Options of calibration."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from calib8.calibration.observers import ObserverName
from calib8.calibration.observers.percentile import Percentile
from calib8.config import Config, Option

TensorChoice: TypeAlias = Literal["weighted", "all"]


class Calibrate(Config):
    """How ranges are found."""

    observer: ObserverName = "minmax"
    """What turns statistics into a range.

    See ``calibration.observers``.
    """
    percentile: float = Field(default=Percentile.percentile, gt=50, le=100)
    """For ``observer`` percentile.

    In percent of the values: so many are not clipped.
    """
    tensors: TensorChoice = "weighted"
    """Tensors that get a range: what weighted ops read, or all, as TensorRT's calibrators do.

    The first is all that Q/DQ needs; see ``calibration.every``.
    """

    memory: Annotated[int | None, Option(metavar="MIB")] = Field(default=None, ge=1)
    """MiB that the activations of a batch may take; a sample that takes more is refused.

    By the shapes of all tensors, weights and calib8 itself aside. Default: a GiB, and any single sample.
    """

    @model_validator(mode="after")
    def _combination(self) -> "Calibrate":
        if self.observer != "percentile" and self.percentile != type(self).model_fields["percentile"].default:
            raise ValueError(
                f"a percentile is for the observer percentile, and {self.observer} was chosen (--observer percentile)"
            )
        return self
