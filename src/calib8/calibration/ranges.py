"""Ranges: what calibration found out about a model, as one readable JSON file."""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)
from typing_extensions import Self

from calib8.caches.cache import DEFAULT_VERSION, Algorithm, Cache, cache_of
from calib8.calibration.observers import OBSERVERS
from calib8.calibration.observers.min_max import MinMax
from calib8.files import write_json
from calib8.passes.reach import Reach
from calib8.passes.unheld import read_ranges
from calib8.precision import INT8, Grid
from calib8.provenance import Origin

#: What an activation can reach, and so a range.
LARGEST = float(np.finfo(np.float32).max)


def _in_float32(number: float) -> float:
    if abs(number) > LARGEST:
        raise ValueError(f"{number:g} is beyond float32, which ends at {LARGEST:.4g}")
    return number


Float32 = Annotated[float, AfterValidator(_in_float32)]


class TensorRange(BaseModel):
    """One tensor. ``amax`` is what the observer chose; ``minimum`` and ``maximum`` are what was seen.

    ``typical`` is the median over rows (positions) of the row's root mean square.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amax: Float32 = Field(ge=0)
    minimum: Float32
    maximum: Float32
    typical: Float32 = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"its minimum {self.minimum:g} is above its maximum {self.maximum:g}")
        return self

    def typical_sqnr_db(self, grid: Grid = INT8) -> float:
        """SQNR in dB that a typical position keeps on ``grid``.

        Rounding to a step s adds noise of power s^2 / 12. A few outliers stretch INT8's grid for everyone: they raise
        the step, and leave the SQNR of the whole tensor (dominated by themselves) high while most positions drown. The
        steps of FP8 are finer where values are small.
        """
        if self.amax == 0 or self.typical == 0:
            return math.inf
        step = grid.step(min(self.typical / self.amax, 1.0) * grid.largest)
        # In logarithms, since the squares of small numbers would be 0.
        levels = grid.largest / step
        return 20 * math.log10(levels * math.sqrt(12)) + 20 * (math.log10(self.typical) - math.log10(self.amax))


class Ranges(BaseModel):
    """The ranges of all calibrated tensors, by name, and how they came to be.

    ``beyond`` are the float tensors that FP16 does not hold (see ``passes.reach``): what computes them stays FP32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.ranges/1"] = "calib8.ranges/1"
    origin: Origin
    samples: NonNegativeInt
    positions: NonNegativeInt
    tensors: dict[str, TensorRange]
    #: Least, usual and largest size of dimensions behind the batch, by name, in the data.
    sizes: dict[str, tuple[PositiveInt, PositiveInt, PositiveInt]] = Field(default_factory=dict)
    beyond: dict[str, Reach] = {}

    def amax(self) -> dict[str, float]:
        """Tensor name -> amax."""
        return {name: tensor.amax for name, tensor in self.tensors.items()}

    def cache(self, version: str = DEFAULT_VERSION) -> Cache:
        """The same as a calibration cache of TensorRT ``version``. Raises ``CacheError``, see ``cache_of``."""
        return cache_of(self.amax(), algorithm=algorithm_of(self.origin), version=version)

    @property
    def sha256(self) -> str:
        """Of everything in it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, {**self.model_dump(), "sha256": self.sha256})

    @staticmethod
    def load(path: Path) -> "Ranges":
        """Read what ``save`` wrote, or what somebody made of it. Raises ``RangesError``."""
        return read_ranges(path, Ranges)[0]

    @staticmethod
    def load_unchanged(path: Path) -> "Ranges | None":
        """Read back what ``save`` wrote; None if it was changed since. Raises ``RangesError``."""
        ranges, written = read_ranges(path, Ranges)
        return ranges if ranges.sha256 == written else None


def algorithm_of(origin: Origin | None) -> Algorithm:
    """What a cache of ranges of this ``origin`` names: min/max where nothing says by what they were found."""
    observer = OBSERVERS.get(str(origin.settings.get("observer"))) if origin is not None else None
    return MinMax.algorithm if observer is None else observer.algorithm
