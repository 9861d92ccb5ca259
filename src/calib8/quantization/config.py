"""Options of quantisation."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from calib8.config import Config, Option

Precision: TypeAlias = Literal["fp16", "fp32"]
Treatment: TypeAlias = Literal["auto", "plain"]
Optimize: TypeAlias = Literal["accuracy", "latency"]

#: Held-out samples that a plan is measured on.
PROBED = 32


class Form(Config):
    """Which ops become INT8, and what form the rest has."""

    include: Annotated[tuple[str, ...], Option(metavar="GLOB")] = ()
    """Quantise only ops whose node name matches this.

    Shell-style globs; none takes all ops.
    """
    exclude: Annotated[tuple[str, ...], Option(metavar="GLOB")] = ()
    """Leave ops whose node name matches this in float.

    Shell-style globs, which win over ``include``.
    """
    remainder: Precision = "fp16"
    """Precision of what is not INT8.

    TensorRT and TensorRT-RTX want fp16.
    """
    embedding: Annotated[bool, Option("--int8-embedding/--float-embedding")] = True
    """How to store embedding tables.

    As int8 rows (``DequantizeLinear -> Gather``), or in float.
    """


class Int8(Form):
    """How to quantise by calibration."""

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


class Migrate(Form):
    """How to quantise by the scales of a TensorRT calibration cache."""

    strict: bool = False
    """Refuse a cache that lacks a scale of any op.

    Otherwise such an op stays in float.
    """
    inverse_scales: bool = False
    """The file holds 1 / scale, as some converters write it."""
