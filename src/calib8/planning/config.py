"""Options of quantisation."""

from typing import Literal, TypeAlias

from pydantic import Field

from calib8.config import Config

Precision: TypeAlias = Literal["fp16", "fp32"]


class Int8(Config):
    """Which ops become INT8, and what the rest computes in.

    include, exclude: shell-style globs on node names; ``exclude`` wins.
    min_sqnr_db: an op whose input leaves a typical position less than this many dB stays in float. 14 dB is about
        five INT8 steps of root mean square.
    remainder: precision of everything that is not INT8. TensorRT and TensorRT-RTX want fp16.
    embedding: keep embedding tables as int8 rows (``DequantizeLinear -> Gather``).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_sqnr_db: float = Field(default=14.0, ge=0)
    remainder: Precision = "fp16"
    embedding: bool = False
