"""Ranges: what calibration found out about a model, as one readable JSON file."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calib8.config import first_problem
from calib8.errors import InputError, RangesError
from calib8.files import read_json, write_json
from calib8.numerics import LEVELS


class TensorRange(BaseModel):
    """One tensor. ``amax`` is what the observer chose; ``minimum`` and ``maximum`` are what was seen.

    ``typical`` is the median over rows (positions) of the row's root mean square.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amax: float = Field(ge=0)
    minimum: float
    maximum: float
    typical: float = Field(ge=0)

    @property
    def typical_sqnr_db(self) -> float:
        """SQNR in dB that a typical position keeps on this grid.

        Rounding to a step s adds noise of power s^2 / 12. A few outliers stretch the grid for everyone: they raise
        the step, and leave the SQNR of the whole tensor (dominated by themselves) high while most positions drown.
        """
        noise = (self.amax / LEVELS) ** 2 / 12
        if noise == 0 or self.typical == 0:
            return math.inf
        return 10 * math.log10(self.typical**2 / noise)


class Origin(BaseModel):
    """What ranges were made from. Ranges are reused only while all of it is unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    data_sha256: str
    settings: dict[str, str | float | int]
    tools: dict[str, str]

    def changes(self, other: "Origin") -> list[str]:
        """What differs between the two, in words; empty if nothing does."""
        changed = []
        if self.model_sha256 != other.model_sha256:
            changed.append("the model")
        if self.data_sha256 != other.data_sha256:
            changed.append("the calibration data")
        if self.settings != other.settings:
            keys = sorted(k for k in self.settings | other.settings if self.settings.get(k) != other.settings.get(k))
            changed.append(f"the settings ({', '.join(keys)})")
        if self.tools != other.tools:
            changed.append("the version of calib8 or ONNX Runtime")
        return changed


class Ranges(BaseModel):
    """The ranges of all calibrated tensors, by name, and how they came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.ranges/1"] = "calib8.ranges/1"
    origin: Origin
    samples: int
    positions: int
    tensors: dict[str, TensorRange]

    def amax(self) -> dict[str, float]:
        """Tensor name -> amax."""
        return {name: tensor.amax for name, tensor in self.tensors.items()}

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())

    @staticmethod
    def load(path: Path) -> "Ranges":
        """Read back what ``save`` wrote. Raises ``RangesError``."""
        try:
            return Ranges.model_validate(read_json(path, "ranges file"))
        except ValidationError as error:
            raise RangesError(f"{path} is not a calib8 ranges file: {first_problem(error)}. Calibrate again.") from None
        except InputError as error:
            raise RangesError(str(error)) from None
