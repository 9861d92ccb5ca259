"""Symmetric 8-bit arithmetic and how far two arrays are apart. Pure numpy, no state.

TensorRT's explicit quantisation (https://docs.nvidia.com/deeplearning/tensorrt, "Quantization Schemes"), zero point 0:
INT8: ``q = clamp(round_half_even(x / scale), -128, 127)``; FP8: ``q = e4m3(clamp(x / scale, -448, 448))``, to the
nearest number, ties to the even one; of both ``x' = q * scale``.
"""

import math
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from calib8.errors import InputError
from calib8.precision import INT8, Grid

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

#: Codes of one grid: int8, or ``float8_e4m3fn`` of ml_dtypes.
Codes: TypeAlias = NDArray[Any]


#: Largest magnitude of INT8's grid.
LEVELS = 127


def scale_of(amax: float | Floats, grid: Grid = INT8) -> NDArray[np.float32]:
    """Scale with which ``grid`` reaches ``amax``, any shape, float32; 1 / its largest number where amax is 0.

    TensorRT refuses a scale of 0, and any positive one represents 0 exactly. Raises ``InputError`` if ``amax`` is
    negative, NaN, infinite, or too large for a float32 scale.
    """
    bound = np.asarray(amax, np.float64)  # so that scale_of(scale * LEVELS) is scale again, to the bit
    bad = ~((bound >= 0) & (bound / grid.largest <= np.finfo(np.float32).max))
    if bad.any():
        raise InputError(f"amax is {bound[bad].flat[0]}; expected a finite number, 0 or larger. Calibrate again.")
    scale = (bound / grid.largest).astype(np.float32)
    # A subnormal quotient would round to a scale of 0, which TensorRT refuses.
    of_zero = np.float32(1.0 / grid.largest)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, of_zero).astype(np.float32)


def dtype_of(grid: Grid) -> np.dtype[Any]:
    """The type of its codes."""
    return np.dtype(getattr(ml_dtypes, grid.dtype, grid.dtype))


def quantize(x: Floats, scale: float | Floats, grid: Grid = INT8) -> Codes:
    """Round to the nearest number of ``grid``, half to even, and clamp; ``scale`` is broadcast against ``x``."""
    scaled = np.clip(np.asarray(x, np.float32) / np.asarray(scale, np.float32), grid.least, grid.largest)
    return (np.rint(scaled) if grid.even else scaled).astype(dtype_of(grid))


def dequantize(q: Codes, scale: float | Floats) -> NDArray[np.float32]:
    """The float32 value of each code; ``scale`` is broadcast against ``q``."""
    return q.astype(np.float32) * np.asarray(scale, np.float32)


def quantize_weight(w: NDArray[np.float32], axis: int, grid: Grid = INT8) -> tuple[Codes, NDArray[np.float32]]:
    """Codes (same shape) and one scale per index of ``axis`` [w.shape[axis]], by min/max of each channel."""
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = scale_of(np.abs(w).max(axis=others), grid)
    shape = [1] * w.ndim
    shape[axis] = -1
    return quantize(w, scale.reshape(shape), grid), scale


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantisation noise ratio in dB: 10 log10(sum ref^2 / sum (ref - cand)^2); inf if they are equal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def cosine_rows(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Cosine of each row of ``a`` [N, D] with the same row of ``b`` [N, D]: [N].

    1 where both rows are zero, 0 where one is, NaN where one holds NaN or infinity.
    """
    a64, b64 = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    both_zero = (np.abs(a64).max(axis=1, initial=0) == 0) & (np.abs(b64).max(axis=1, initial=0) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(norms == 0, 0.0, np.sum(a64 * b64, axis=1) / norms)
    return np.where(both_zero, 1.0, cosine)


def gelu(x: Floats) -> NDArray[np.float32]:
    """``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`` (Hendrycks and Gimpel, 2016, arXiv:1606.08415)."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * np.power(x, 3))
    return np.asarray(0.5 * x * (1 + np.tanh(inner)), np.float32)
