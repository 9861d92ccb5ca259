"""Options of quantisation."""

from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field, field_validator

from calib8.config import Config, Option
from calib8.numerics import FP8, INT8, Grid

Remainder: TypeAlias = Literal["fp16", "fp32"]
Treatment: TypeAlias = Literal["auto", "plain"]
Optimize: TypeAlias = Literal["accuracy", "latency"]

#: Held-out samples that a plan is measured on.
PROBED = 32
_EMBEDDING = Option("--int8-embedding/--float-embedding")


class Common(Config):
    """What every quantisation is told: which ops, and what becomes of the rest."""

    grid: ClassVar[Grid] = INT8

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
    embedding: Annotated[bool, _EMBEDDING] = True
    """How to store embedding tables.

    As int8 rows (``DequantizeLinear -> Gather``), or in float.
    """


class Calibrated(Common):
    """How to quantise by calibration: what ``Int8`` and ``Fp8`` have in common. Their type says to what."""

    treatment: Treatment = "auto"
    """Condition activations with outliers and round with GPTQ, or use ranges alone.

    ``auto`` conditions (smooth, shift, split) and rounds where calibration data is at hand; ``plain`` never does.
    """
    optimize: Optimize = "accuracy"
    """What to go for: accuracy, or latency by treatments that TensorRT computes at no cost of their own.

    ``accuracy`` puts what conditions an activation in front of its Q where it cannot be folded into the op before;
    ``latency`` only takes treatments that leave nothing there, so that TensorRT fuses Q into that op.
    """
    max_damage: float = Field(default=0.002, gt=0)
    """Leave ops that alone take more than this from the cosine of the model's output to FP32's in float.

    With calibration data at hand only.
    """
    min_sqnr_db: Annotated[float, Option("--min-sqnr")] = Field(default=14.0, ge=0)
    """Leave ops whose input would keep less than this many dB in float.

    14 dB is an error of a fifth.
    """


class Int8(Calibrated):
    """How to quantise to INT8 by calibration."""


class Fp8(Calibrated):
    """How to quantise to FP8 (E4M3) by calibration: MatMul and Gemm, for GPUs from Ada (sm89) on.

    Nothing is conditioned, since a float grid leaves small values their digits beside large ones; with calibration data
    weights are rounded with GPTQ as for ``Int8``.
    """

    grid: ClassVar[Grid] = FP8

    embedding: Annotated[Literal[False], _EMBEDDING] = False
    """How to store embedding tables.

    In float: TensorRT refuses INT8 and FP8 in one network.
    """
    optimize: Literal["accuracy"] = "accuracy"
    """What to go for.

    Nothing stands between an op and its Q in any case.
    """

    @field_validator("optimize", mode="before")
    @classmethod
    def _nothing_to_fold(cls, value: Any) -> Any:
        if value == "latency":
            raise ValueError("expected accuracy: nothing stands between an op and its Q in FP8, whatever is asked for")
        return value


#: What can be quantised to, and the config that says how; a new precision is a ``Grid`` in ``numerics`` and one here.
Quantization: TypeAlias = Int8 | Fp8
PRECISIONS: dict[str, type[Calibrated]] = {kind.grid.precision: kind for kind in get_args(Quantization)}


def by_calibration(given: Quantization | None) -> Quantization:
    """What a caller gave as config, or INT8's defaults for None. Raises ``ConfigError`` for anything else."""
    return given if isinstance(given, Quantization) else Int8.of(given)


class Migrate(Common):
    """How to quantise by the scales of a TensorRT calibration cache."""

    strict: bool = False
    """Refuse a cache that lacks a scale of any op.

    Otherwise such an op stays in float.
    """
    inverse_scales: bool = False
    """The file holds 1 / scale, as some converters write it."""
