"""Numbers that stand for themselves: a price, a score, a spectrum. Their size counts, so a cosine tells nothing."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds.base import Facts, Mask, Numbers, Pooling, Side, at_padding


class Number:
    """The error beside the spread of the reference, channel by channel: ``1 - error^2 / (2 spread^2)``.

    Its mean is Lin's concordance correlation (Lin, 1989) where both sides have one mean and spread: a correlation that
    sees an offset and a wrong scale, on the scale of a cosine. An error of a third of the spread is 0.944.
    """

    name: ClassVar[str] = "number"
    score: ClassVar[str] = "agreement of numbers"
    counted: ClassVar[bool] = False

    def kept(self, output: NDArray[np.generic], mask: Mask, pooling: Pooling) -> Side:
        """The numbers; NaN at padding."""
        side, padding = np.asarray(output, np.float32), at_padding(output, mask)
        return side if padding is None else np.where(padding, np.float32(np.nan), side)

    def facts(self, expected: Side, got: Side) -> Facts:
        """Of each sample and channel [n, channels, 8]: count and sums from which spread and errors follow."""
        a, b = (_channels(side) for side in (expected, got))
        terms = (np.ones_like(a), a, a * a, b, b * b, a * b, np.abs(a - b), np.abs(a))
        return (np.stack([np.where(np.isnan(a), 0, term).sum(axis=2) for term in terms], axis=2),)

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """The mean over channels."""
        sums = np.asarray(facts[0], np.float64)
        count, a, aa, _, bb, ab = np.moveaxis(sums[..., :6], 2, 0)
        error = np.maximum(aa - 2 * ab + bb, 0) / np.maximum(count, 1)
        total = np.maximum(count.sum(axis=0), 1)
        spread = aa.sum(axis=0) / total - (a.sum(axis=0) / total) ** 2
        flat = spread <= 1e-12 * np.maximum(aa.sum(axis=0) / total, 1e-300)  # a constant has its size for a spread
        scale = np.where(flat, aa.sum(axis=0) / total, spread)
        share = np.divide(error, 2 * scale, out=np.where(error > 0, 1.0, 0.0), where=scale > 0)
        return np.asarray((1 - share).mean(axis=1))

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """Correlation of all values, mean absolute error over mean magnitude, and that of the worst channel."""
        by_channel = np.asarray(facts[0], np.float64).sum(axis=0)
        count, a, aa, b, bb, ab, error, size = by_channel.sum(axis=0)
        spread = (aa - a * a / count) * (bb - b * b / count)
        told = {"relative error": error / size} if size else {}
        if spread > 0:
            told["correlation"] = (ab - a * b / count) / np.sqrt(spread)
        if len(by_channel) > 1 and (by_channel[:, 7] > 0).all():
            told["relative error of the worst channel"] = (by_channel[:, 6] / by_channel[:, 7]).max()
        return {name: float(value) for name, value in told.items()}


def _channels(side: Side) -> Numbers:
    """[n, channels, values]: channels are the last axis up to rank 3, axis 1 of images."""
    x = side.astype(np.float64).reshape(len(side), -1) if side.ndim < 2 else side.astype(np.float64)
    if x.ndim < 4:
        x = np.moveaxis(x, -1, 1)
    return x.reshape(len(x), x.shape[1], -1)
