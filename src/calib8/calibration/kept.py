"""Which rows of a batch to keep, and where they lie in a tensor."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib8.calibration.sample import keep_rows
from calib8.data.batching import Rows
from calib8.graph.shapes import Shape
from calib8.graph.window import Window


@dataclass(frozen=True)
class Batch:
    """Numbers of the samples, the mask [batch, sequence] if there is one, and the share of rows to keep if a sample,
    or a token, were a row."""

    samples: Rows
    mask: NDArray[np.bool_] | None
    per_sample: float
    per_token: float

    def tokens(self, rows: int, *, sequence_first: bool = False) -> NDArray[np.int64]:
        """Numbers of the rows of real tokens, where each has that many."""
        assert self.mask is not None
        mask = self.mask.T if sequence_first else self.mask
        return np.flatnonzero(np.repeat(mask.reshape(-1), rows))


@dataclass(frozen=True)
class Kept:
    """``index`` chooses rows by number [n], or values one by one [n, values per row], -1 for padding.

    ``coordinates`` [n, 2] tell each row: its sample, and its position in that.
    """

    index: NDArray[np.int64]
    coordinates: NDArray[np.int64]


def kept_tokens(batch: Batch, rows: int, *, sequence_first: bool = False) -> Kept:
    """Where every token has that many rows; padding has none."""
    assert batch.mask is not None
    chosen = keep_rows(batch.samples, batch.mask.shape[1] * rows, batch.per_token / rows)
    chosen &= np.repeat(batch.mask, rows, axis=1)
    number = np.arange(chosen.size)
    if sequence_first:
        number = number.reshape(*batch.mask.shape[::-1], rows).swapaxes(0, 1)
    return Kept(number.reshape(chosen.shape)[chosen], _coordinates(batch.samples, chosen))


def kept_rows(batch: Batch, rows: int) -> Kept:
    """Where the batch has that many rows."""
    count, rest = divmod(rows, len(batch.samples))
    if count and not rest:
        samples, share = batch.samples, batch.per_sample / count
    else:  # they are of no sample in particular
        samples, count, share = batch.samples[:1], rows, batch.per_sample * len(batch.samples) / max(rows, 1)
    chosen = keep_rows(samples, count, share)
    return Kept(np.flatnonzero(chosen), _coordinates(samples, chosen))


def kept_patches(batch: Batch, shape: Shape, window: Window) -> Kept:
    """Where a Conv sees a tensor [batch, channels, spatial...] through ``window``."""
    outputs = window.outputs(shape[2:])
    count = math.prod(outputs)
    chosen = keep_rows(batch.samples, count, batch.per_sample / max(count, 1))
    index = window.indices(shape, chosen.reshape(-1, *outputs))
    return Kept(index, _coordinates(batch.samples, chosen))


def _coordinates(samples: Rows, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    row, position = np.nonzero(chosen)
    return np.stack([samples[row], position], axis=1)
