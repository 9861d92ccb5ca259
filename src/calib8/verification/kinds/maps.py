"""Dense maps of probabilities: a decision for every pixel, frame or cell."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds.base import Facts, Numbers, Side, Whole

#: Where a probability becomes a yes.
THRESHOLD = 0.5


class Maps(Whole):
    """The share of cells that are on the same side of the threshold; overlap of what is above; error by channel."""

    name: ClassVar[str] = "maps"
    score: ClassVar[str] = f"share of cells on the same side of {THRESHOLD}"

    def facts(self, expected: Side, got: Side) -> Facts:
        """Of each sample: share that agrees, cells above in both, in either, and the mean error of each channel."""
        a, b = (side.reshape(len(side), -1) > THRESHOLD for side in (expected, got))
        channel = 1 if expected.ndim > 3 else expected.ndim - 1
        others = tuple(axis for axis in range(1, expected.ndim) if axis != channel)
        return (a == b).mean(axis=1), (a & b).sum(axis=1), (a | b).sum(axis=1), np.abs(expected - got).mean(axis=others)

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """The shares that agree."""
        return np.asarray(facts[0], np.float64)

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """See the class."""
        _, both, either, error = facts
        told: dict[str, float] = {}
        if either.any():
            told[f"overlap of what is above {THRESHOLD}"] = float(both.sum() / either.sum())
        return told | {"mean error of the worst channel": float(error.mean(axis=0, dtype=np.float64).max())}
