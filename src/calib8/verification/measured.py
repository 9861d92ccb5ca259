"""Outputs of two runtimes over the same batches, each measured by its kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calib8.errors import DataError
from calib8.verification.kinds import KINDS, KindName
from calib8.verification.kinds.base import Facts, Kind, Mask, Numbers, Pooling, Side
from calib8.verification.kinds.guess import guess

#: z of the confidence at which a bound is told, 95 % to one side.
CONFIDENT = 1.645


@dataclass
class Measured:
    """One output: what it is, why it was taken for that (None if somebody said so), and what was seen of it so far."""

    kind: KindName
    guessed: str | None
    pooling: Pooling
    _facts: list[Facts] = field(default_factory=list)

    @property
    def measure(self) -> Kind:
        """How it is measured."""
        return KINDS[self.kind]

    def kept(self, output: NDArray[np.generic], mask: Mask) -> Side:
        """What is kept of one side of a batch."""
        return self.measure.kept(output, mask, self.pooling)

    def add(self, expected: Side, got: Side) -> None:
        """What was kept of both sides of a batch."""
        self._facts.append(self.measure.facts(expected, got))

    def scores(self) -> Numbers:
        """The score of each sample of all batches, in order; 1 where neither side has anything to compare."""
        scores = self.measure.scores(*self.facts())
        return np.where(has_any(self.measure, scores), scores, 1.0)

    def facts(self) -> Facts:
        """Those of all batches, in order."""
        return tuple(_joined(parts) for parts in zip(*self._facts, strict=True))


def kind_of(
    name: str, output: NDArray[np.generic], mask: Mask, pooling: Pooling, told: Mapping[str, KindName]
) -> Measured:
    """How the reference's ``output`` of a batch is measured: as it is ``told``, or by a guess."""
    if name in told:
        return Measured(told[name], None, pooling)
    kind, reason = guess(name, output, mask)
    return Measured(kind, reason, pooling)


def require_known(told: Mapping[str, KindName], names: Mapping[str, object]) -> None:
    """Raise ``DataError`` if a kind is told of an output that is not among ``names``."""
    if unknown := sorted(set(told) - set(names)):
        raise DataError(
            f"--output-kind names {', '.join(map(repr, unknown))}, and the model's outputs are {', '.join(names)}."
        )


def has_any(kind: Kind, scores: Numbers) -> NDArray[np.bool_]:
    """In which samples there was anything to compare [n]. Where nothing is counted NaN is a fault, and stays one."""
    return ~np.isnan(scores) if kind.counted else np.ones(len(scores), np.bool_)


def at_least(kind: Kind, scores: Numbers, z: float = CONFIDENT) -> float:
    """What the mean score of other such samples is not below, at the confidence of ``z``, by these ``scores`` [n].

    Of counts Wilson's bound (Wilson, 1927), which knows that seven of seven is no proof; else Student's.
    """
    count, mean = len(scores), float(scores.mean())
    if kind.counted:
        middle, spread = mean + z * z / (2 * count), z * np.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2)
        return float((middle - spread) / (1 + z * z / count))
    if count < 2:
        return -1.0
    wider = z * (1 + (z * z + 1) / (4 * (count - 1)))  # Student's quantile, to the first order
    return max(-1.0, float(mean - wider * scores.std(ddof=1) / np.sqrt(count)))


def _joined(parts: tuple[NDArray[np.generic], ...]) -> NDArray[np.generic]:
    """One after the other; none where they do not agree in shape."""
    alike = all(part.shape[1:] == parts[0].shape[1:] for part in parts)
    return np.concatenate(parts) if alike else np.zeros(0, parts[0].dtype)
