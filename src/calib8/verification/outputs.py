"""What a runtime answered, ready to be measured: as finite numbers, padding left out, one vector per sample."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calib8.data.batching import Rows
from calib8.data.inputs import Arrays
from calib8.errors import DataError
from calib8.runtime.base import Runtime
from calib8.text.sentence import pool

Numbers = NDArray[np.float64]
Mask = NDArray[np.generic] | None


class NotFinite(DataError):
    """An output holds NaN or infinity."""


class OutputsDiffer(DataError):
    """Two forms of a model have other outputs, or outputs of other shapes."""


def finite_numbers(runtime: Runtime, outputs: Arrays, rows: Rows, arrays: Arrays, mask: Mask) -> dict[str, Numbers]:
    """Every output of a batch in double precision; what is NaN or infinite at padding is 0, since nobody reads it.

    ``arrays`` of the samples ``rows`` went into ``runtime``. Raises ``DataError`` for an output that is not of numbers,
    or not finite elsewhere: then it names the sample, and the node that it came from.
    """
    numbers = {name: without_padding(_as_numbers(name, output), mask) for name, output in outputs.items()}
    for name, output in numbers.items():
        whole = np.isfinite(output)
        if not whole.all():
            at = (
                int(np.argmin(whole.reshape(len(whole), -1).all(axis=1)))
                if whole.ndim and len(whole) == len(rows)
                else 0
            )
            alone = {given: array[at : at + 1] for given, array in arrays.items()}
            raise not_finite(f"output {name!r}", runtime, int(rows[at]), runtime.not_finite_from(alone))
    return numbers


def not_finite(what: str, runtime: Runtime, sample: int | None = None, origin: str | None = None) -> NotFinite:
    """The error for ``what`` holding NaN or infinity: of which sample, who computed it, and what to do about it."""
    advice = (
        "The model is broken, or its FP16 remainder overflowed: calibrate on data that go as far, or quantise with "
        "--remainder fp32."
        if runtime.computes_fp16
        else "It computes in FP32 there, so the model itself is broken or the data is nothing it was made for."
    )
    of = "" if sample is None else f" for sample {sample}"
    comes = "" if origin is None else f" It comes up first in {origin}."
    return NotFinite(f"{what} of {runtime.description} holds NaN or infinity{of}.{comes} {advice}")


def without_padding(output: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """``output``, with 0 for NaN and infinity where the mask says that there is no token."""
    if mask is None or not has_tokens(output, mask):
        return output
    unread = (mask == 0)[..., None] & ~np.isfinite(output)
    return np.where(unread, 0, output) if unread.any() else output


def vectors_of(output: NDArray[np.generic], mask: Mask, pooling: Literal["mean", "cls"]) -> NDArray[np.float32]:
    """One vector per sample [n, width]: pooled over real positions where ``output`` has a row per token, else flat."""
    numbers = output.astype(np.float32)
    if mask is not None and has_tokens(numbers, mask):
        return pool(numbers, mask, pooling)
    return numbers.reshape(len(numbers), -1)


def has_tokens(output: NDArray[np.generic], mask: NDArray[np.generic]) -> bool:
    """Whether ``output`` has a row for each position of the ``mask`` [batch, sequence]."""
    return output.ndim == 3 and output.shape[:2] == mask.shape


def _as_numbers(name: str, output: NDArray[Any]) -> Numbers:
    try:
        return np.asarray(output, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"output {name!r} is not of numbers: there is nothing to compare.") from None
