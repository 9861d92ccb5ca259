"""Options of quantisation."""

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from calib8.config import Config, Option
from calib8.precision import GRIDS, INT8, Grid, Precision
from calib8.verification.config import OutputKinds

Remainder: TypeAlias = Literal["fp16", "fp32"]
Treatment: TypeAlias = Literal["auto", "plain"]
Optimize: TypeAlias = Literal["accuracy", "latency"]

#: Held-out samples that a plan is measured on.
PROBED = 32
_EMBEDDING = Option("--int8-embedding/--float-embedding")


class Common(Config):
    """What every quantisation is told: which ops, and what becomes of the rest."""

    include: Annotated[tuple[str, ...], Option(metavar="GLOB")] = ()
    """Quantise only ops whose node name matches this.

    Shell-style globs; none takes all ops.
    """
    exclude: Annotated[tuple[str, ...], Option(metavar="GLOB")] = ()
    """Leave ops whose node name matches this in float.

    Shell-style globs, which win over ``include``.
    """
    remainder: Remainder = "fp16"
    """Precision of what is not quantised.

    TensorRT and TensorRT-RTX want fp16.
    """

    @property
    def grid(self) -> Grid:
        """What is quantised to."""
        return INT8

    def chosen(self) -> dict[str, Any]:
        """All of it, by the name of how it is quantised: what a model says of how it was made."""
        return {type(self).__name__.lower(): self.model_dump(mode="json")}


class Quantize(Common, OutputKinds):
    """How to quantise by calibration, and to what."""

    precision: Precision = "int8"
    """What to quantise to; fp8 (E4M3), of MatMul and Gemm, is for GPUs from Ada (sm89) on.

    A float grid leaves small values their digits beside large ones, so that nothing is conditioned for fp8; with
    calibration data weights are rounded with GPTQ as for int8.
    """
    embedding: Annotated[bool | None, _EMBEDDING] = Field(default=None, validate_default=True)
    """How to store embedding tables; default: as int8 if that is what ops are quantised to.

    As int8 rows (``DequantizeLinear -> Gather``), or in float: TensorRT refuses INT8 and FP8 in one network.
    """
    treatment: Treatment = "auto"
    """Condition activations with outliers and round with GPTQ, or use ranges alone.

    ``auto`` conditions (smooth, shift, split) and rounds where calibration data is at hand; ``plain`` never does.
    """
    optimize: Optimize | None = None
    """What to go for; default: latency where a conversion builds INT8 engines, else accuracy.

    ``accuracy`` puts what conditions an activation in front of its Q where it cannot be folded into the op before;
    ``latency`` only takes treatments that TensorRT computes at no cost of their own: nothing is left there, so that it
    fuses Q into that op. Where nothing is conditioned, there is nothing to choose.
    """
    max_damage: float = Field(default=0.002, gt=0)
    """Leave ops that alone take more than this from the score of the model's output beside FP32's in float.

    That is the cosine of vectors; ``verification.kinds`` has the others. Where scores count what is right or wrong, one
    sample never decides. With calibration data at hand only.
    """
    min_sqnr_db: Annotated[float, Option("--min-sqnr")] = Field(default=14.0, ge=0)
    """Leave ops whose input would keep less than this many dB in float.

    14 dB is an error of a fifth.
    """

    @property
    def grid(self) -> Grid:
        """What is quantised to."""
        return GRIDS[self.precision]

    def chosen(self) -> dict[str, Any]:
        """All of it, by the name of the precision."""
        return {self.precision: self.model_dump(mode="json", exclude={"precision"}) | {"optimize": self.goal}}

    @property
    def goal(self) -> Optimize:
        """``optimize``, or its default where nobody builds an engine."""
        return self.optimize or "accuracy"

    def __eq__(self, other: object) -> bool:
        """By what is chosen: the same, however short it was written."""
        return isinstance(other, Quantize) and self.chosen() == other.chosen()

    def __hash__(self) -> int:
        return hash(json.dumps(self.chosen(), sort_keys=True))

    @field_validator("embedding", mode="wrap")
    @classmethod
    def _beside_the_codes(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        taken = _grid_of(info).tables
        if value is None:
            return taken
        if (given := handler(value)) and not taken:
            raise ValueError("expected False")
        return given

    @field_validator("optimize")
    @classmethod
    def _nothing_to_fold(cls, value: Optimize | None, info: ValidationInfo) -> Optimize | None:
        grid = _grid_of(info)
        if value == "latency" and not grid.even:
            told = grid.precision.upper()
            raise ValueError(
                f"expected accuracy: nothing stands between an op and its Q in {told}, whatever is asked for"
            )
        return value


def _grid_of(info: ValidationInfo) -> Grid:
    """That of the precision, which was validated before; INT8's where it is none, which is told already."""
    return GRIDS[info.data.get("precision", "int8")]


class Int8(Quantize):
    """``Quantize`` to INT8."""

    precision: Literal["int8"] = "int8"
    """What to quantise to."""


class Fp8(Quantize):
    """``Quantize`` to FP8 (E4M3): MatMul and Gemm, for GPUs from Ada (sm89) on."""

    precision: Literal["fp8"] = "fp8"
    """What to quantise to."""


class Migrate(Common):
    """How to quantise by the scales of a TensorRT calibration cache."""

    embedding: Annotated[bool, _EMBEDDING] = True
    """How to store embedding tables.

    As int8 rows (``DequantizeLinear -> Gather``), or in float.
    """
    strict: bool = False
    """Refuse a cache that lacks a scale of any op.

    Otherwise such an op stays in float.
    """
    inverse_scales: bool = False
    """The file holds 1 / scale, as some converters write it."""
