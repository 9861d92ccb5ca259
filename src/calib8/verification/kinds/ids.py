"""Ids and labels: right or wrong."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds.base import Facts, Mask, Numbers, Pooling, Side, at_padding


class Ids:
    """The share of a sample's values that are equal."""

    name: ClassVar[str] = "ids"
    score: ClassVar[str] = "share of equal ids"
    counted: ClassVar[bool] = True

    def kept(self, output: NDArray[np.generic], mask: Mask, pooling: Pooling) -> Side:
        """Whole numbers up to 2**53; 0 at padding."""
        side, padding = np.asarray(output, np.float64), at_padding(output, mask)
        return side if padding is None else np.where(padding, 0.0, side)

    def facts(self, expected: Side, got: Side) -> Facts:
        """Of each sample the share that is equal."""
        return ((expected == got).reshape(len(expected), -1).mean(axis=1),)

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """The shares."""
        return np.asarray(facts[0], np.float64)

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """Samples that are equal throughout."""
        return {"samples equal throughout": float((self.scores(*facts) == 1).mean())}
