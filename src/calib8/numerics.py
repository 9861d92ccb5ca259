"""Symmetric INT8 arithmetic and how far two arrays are apart. Pure numpy, no state.

TensorRT's explicit quantisation (https://docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types"):
``q = clamp(round_half_even(x / scale), -128, 127)``, ``x' = q * scale``, zero point 0.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.errors import InputError

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

#: Largest magnitude of the symmetric grid: ``scale = amax / LEVELS``, as in TensorRT's calibration cache.
LEVELS = 127
#: Scale of a tensor that was never anything but zero. TensorRT refuses 0; any positive scale represents 0 exactly.
SCALE_OF_ZERO = 1.0 / LEVELS


def scale_of(amax: float | Floats) -> NDArray[np.float32]:
    """Scale of the symmetric grid that reaches ``amax``, any shape, float32; ``SCALE_OF_ZERO`` where amax is 0.

    Raises ``InputError`` if ``amax`` is negative, NaN, infinite, or too large for a float32 scale.
    """
    bound = np.asarray(amax, np.float64)  # so that scale_of(scale * LEVELS) is scale again, to the bit
    bad = ~((bound >= 0) & (bound / LEVELS <= np.finfo(np.float32).max))
    if bad.any():
        raise InputError(f"amax is {bound[bad].flat[0]}; expected a finite number, 0 or larger. Calibrate again.")
    scale = (bound / LEVELS).astype(np.float32)
    # A subnormal quotient would round to a scale of 0, which TensorRT refuses.
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(SCALE_OF_ZERO)).astype(np.float32)


def quantize(x: Floats, scale: float | Floats) -> NDArray[np.int8]:
    """Round half to even and clamp to [-128, 127]; ``scale`` is broadcast against ``x``."""
    return np.clip(np.rint(np.asarray(x, np.float32) / np.asarray(scale, np.float32)), -128, 127).astype(np.int8)


def dequantize(q: NDArray[np.int8], scale: float | Floats) -> NDArray[np.float32]:
    """The float32 value of each int8 code; ``scale`` is broadcast against ``q``."""
    return q.astype(np.float32) * np.asarray(scale, np.float32)


def quantize_weight(w: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """INT8 codes (same shape) and one scale per index of ``axis`` [w.shape[axis]], by min/max of each channel."""
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = scale_of(np.abs(w).max(axis=others))
    shape = [1] * w.ndim
    shape[axis] = -1
    return quantize(w, scale.reshape(shape)), scale


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
