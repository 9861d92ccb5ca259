"""Options of quantisation."""

from typing import Literal, TypeAlias

from pydantic import Field

from calib8.config import Config

Precision: TypeAlias = Literal["fp16", "fp32"]
Treatment: TypeAlias = Literal["auto", "plain"]


class Form(Config):
    """Which ops become INT8, and what form the rest has.

    include, exclude: shell-style globs on node names; ``exclude`` wins.
    remainder: precision of everything that is not INT8. TensorRT and TensorRT-RTX want fp16.
    embedding: keep embedding tables as int8 rows (``DequantizeLinear -> Gather``).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    remainder: Precision = "fp16"
    embedding: bool = True


class Int8(Form):
    """How to quantise by calibration.

    treatment: ``auto`` conditions activations with outliers (smooth, shift, split) and rounds weights with GPTQ, where
        calibration data is at hand; ``plain`` uses ranges alone.
    max_damage: with calibration data at hand, an op that alone takes more than this from the cosine between the model's
        output and FP32's stays in float.
    min_sqnr_db: an op that would keep less than this many dB stays in float. 14 dB is an error of a fifth.
    """

    treatment: Treatment = "auto"
    max_damage: float = Field(default=0.002, gt=0)
    min_sqnr_db: float = Field(default=14.0, ge=0)


class Migrate(Form):
    """How to quantise by the scales of a TensorRT calibration cache.

    strict: refuse a cache that lacks a scale of any op's input, rather than leave that op in float.
    inverse_scales: the file holds 1 / scale.
    """

    strict: bool = False
    inverse_scales: bool = False
