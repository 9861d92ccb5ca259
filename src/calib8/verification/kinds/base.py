"""What every kind of output is: how its samples are scored, and what else is told of them."""

from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Side: TypeAlias = NDArray[np.floating[Any]]
Mask: TypeAlias = NDArray[np.generic] | None
Pooling: TypeAlias = Literal["mean", "cls"]
#: Arrays whose first axis is the sample. Where batches do not agree in the others, ``Kind.scores`` gets an empty one.
Facts: TypeAlias = tuple[NDArray[Any], ...]


class Kind(Protocol):
    """One kind of output. ``score`` says what its score is for people, 1 at best.

    counted: whether a score is made of few things that are right or wrong, so that what one sample decides is chance.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    counted: ClassVar[bool]

    def kept(self, output: NDArray[np.generic], mask: Mask, pooling: Pooling) -> Side:
        """What is kept of one side, [n, ...]; ``mask`` [batch, sequence] says which positions are tokens."""
        ...

    def facts(self, expected: Side, got: Side) -> Facts:
        """What is kept of a batch, from what was kept of both sides: arrays [n, ...] that ``scores`` takes."""
        ...

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """The score of each sample [n], of the facts of all batches.

        Of what is counted NaN where neither side has anything to count.
        """
        ...

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """What else is told of all samples together, by its name for people."""
        ...


class Whole:
    """For kinds that keep an output as it is."""

    counted: ClassVar[bool] = False

    def kept(self, output: NDArray[np.generic], mask: Mask, pooling: Pooling) -> Side:
        """See ``Kind``; 0 at padding."""
        side = np.asarray(output, np.float32)
        padding = at_padding(output, mask)
        return side if padding is None else np.where(padding, np.float32(0), side)


def at_padding(output: NDArray[np.generic], mask: Mask) -> NDArray[np.bool_] | None:
    """Where ``output`` [batch, sequence, ...] is of padding, in a shape that goes with its own; None if nothing is."""
    if mask is None or output.ndim < 2 or output.shape[:2] != mask.shape:
        return None
    return np.asarray((mask == 0).reshape(*mask.shape, *(1,) * (output.ndim - 2)))
