"""Vectors: embeddings and hidden states, of which the direction counts."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.numerics import cosine_rows
from calib8.text.sentence import unit_rows
from calib8.verification.kinds.base import Facts, Mask, Numbers, Pooling, Side
from calib8.verification.metrics import neighbour_agreement
from calib8.verification.outputs import vectors_of

NEIGHBOURS = "same nearest neighbour"


class Vectors:
    """Cosine of each sample's vector; share of samples that find the same nearest other one (see ``metrics``)."""

    name: ClassVar[str] = "vectors"
    score: ClassVar[str] = "cosine"
    counted: ClassVar[bool] = False

    def kept(self, output: NDArray[np.generic], mask: Mask, pooling: Pooling) -> Side:
        """One vector per sample, see ``vectors_of``."""
        return vectors_of(output, mask, pooling)

    def facts(self, expected: Side, got: Side) -> Facts:
        """Cosines, and both vectors."""
        return cosine_rows(expected, got), expected, got

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """The cosines."""
        return np.asarray(facts[0], np.float64)

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """Of three samples or more, whose vectors are of one length."""
        _, expected, got = facts
        if len(expected) < 3:
            return {}
        return {NEIGHBOURS: neighbour_agreement(*(unit_rows(np.asarray(side, np.float32)) for side in (expected, got)))}
