"""Scores of classes, [n, classes]: logits or probabilities, of which the best counts."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds.base import Facts, Numbers, Side, Whole

FIRST = 5


class Classes(Whole):
    """Whether the best class is the same; overlap of the first five; the largest change of a probability."""

    name: ClassVar[str] = "classes"
    score: ClassVar[str] = "agreement of the best class"
    counted: ClassVar[bool] = True

    def facts(self, expected: Side, got: Side) -> Facts:
        """Of each sample: whether the best agrees, the share of the first five that does, the largest change."""
        a, b = (side.reshape(len(side), -1) for side in (expected, got))
        first = min(FIRST, a.shape[1])
        best = (a.argmax(axis=1) == b.argmax(axis=1)).astype(np.float64)
        leading = [np.argsort(-side, axis=1, kind="stable")[:, :first] for side in (a, b)]
        shared = np.array([len(np.intersect1d(*pair)) for pair in zip(*leading, strict=True)]) / first
        change = np.abs(probabilities(a, a) - probabilities(b, a)).max(axis=1)
        return best, shared, change

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """1 where the best class is the same, else 0."""
        return np.asarray(facts[0], np.float64)

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """See the class."""
        _, shared, change = (np.asarray(fact, np.float64) for fact in facts)
        return {"of the first five, shared": float(shared.mean()), "largest change of probability": float(change.max())}


def are_probabilities(scores: NDArray[np.generic]) -> bool:
    """Whether the last axis sums to 1 throughout, and nothing is negative."""
    x = np.asarray(scores, np.float64)
    return bool(x.size) and bool((x >= 0).all()) and bool(np.allclose(x.sum(axis=-1), 1, atol=1e-2))


def probabilities(scores: Side, like: Side) -> Numbers:
    """``scores`` if ``like``, scores of the same output, are probabilities already; else their softmax."""
    x = scores.astype(np.float64)
    if are_probabilities(like):
        return x
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
