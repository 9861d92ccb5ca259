"""What ops can be quantised to. No NumPy: processes that must be small read these names, too.

A precision is its name in ``Precision`` and its ``Grid`` in ``GRIDS``.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

#: What the quantised ops of a model multiply.
Precision: TypeAlias = Literal["int8", "fp8"]


@dataclass(frozen=True)
class Grid:
    """A precision: the numbers that its bits stand for, before they are scaled, and who multiplies them.

    dtype: of its codes, by the name that NumPy or ml_dtypes has for it. ``least`` and ``largest`` are its ends,
    ``largest`` what amax becomes: ``scale = amax / largest``. ``normal``: the smallest magnitude with all ``mantissa``
    bits, of a grid of floats; None of one with steps that are equal.
    kinds: ops that TensorRT multiplies in it. opset: ONNX's first whose Q and DQ know it, with a scale for each
    channel. capability: of the first GPUs with units for it, 89 for sm89; 0 where all that calib8 builds for have them.
    tables: whether TensorRT takes embedding tables of int8 beside it.
    tactics, tensors: how TensorRT calls it in the names of tactics, and, a regular expression, in the types of tensors.
    """

    precision: Precision
    dtype: str
    least: float
    largest: float
    kinds: tuple[str, ...]
    opset: int
    tactics: tuple[str, ...]
    tensors: str
    capability: int = 0
    tables: bool = False
    mantissa: int = 0
    normal: float | None = None

    @property
    def even(self) -> bool:
        """Whether all steps are equal, so that a few large values cost all others their digits."""
        return self.normal is None

    def step(self, magnitude: float) -> float:
        """How far the numbers beside ``magnitude`` are apart, before they are scaled."""
        if self.normal is None:
            return 1.0
        return float(2.0 ** (math.floor(math.log2(max(magnitude, self.normal))) - self.mantissa))


#: As in TensorRT's calibration cache: -128 is never what amax becomes.
INT8 = Grid(
    "int8", "int8", -128, 127,
    kinds=("MatMul", "Gemm", "Conv"), opset=13, tactics=("i8", "s8"), tensors=r"\bInt8\b", tables=True,
)  # fmt: skip
#: E4M3 without infinity (OCP 8-bit floating point, revision 1.0): 4 bits of exponent, 3 of mantissa. NVIDIA promises it
#: for matrix products only (TensorRT-RTX, "Working with Quantized Types").
FP8 = Grid(
    "fp8", "float8_e4m3fn", -448, 448,
    kinds=("MatMul", "Gemm"), opset=19, tactics=("e4m3", "e5m2"), tensors=r"\b(?:FP8|Float8|E4M3|E5M2)",
    capability=89, mantissa=3, normal=2.0**-6,
)  # fmt: skip
GRIDS: dict[Precision, Grid] = {grid.precision: grid for grid in (INT8, FP8)}
