"""Sequences of class scores, [n, steps, classes], that are decoded: speech and text recognition (CTC)."""

from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds.base import Facts, Numbers, Side, Whole


class Sequences(Whole):
    """How alike the decoded sequences are: one minus the edit distance over the longer one's length.

    Decoded greedily: the best class of each step, repeats once. The blank of CTC (Graves, 2006) is left out: the first
    or last class, if no other is the best as often in the reference.
    """

    name: ClassVar[str] = "sequences"
    score: ClassVar[str] = "likeness of decoded sequences"
    counted: ClassVar[bool] = True

    def facts(self, expected: Side, got: Side) -> Facts:
        """Of each sample the best class of every step, a list, in both; and how many classes there are."""
        return _steps(expected), _steps(got), np.full(len(expected), expected.shape[-1])

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """See the class."""
        return np.array([_alike(a, b) for a, b in _decoded(*facts)])

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """Samples that are decoded to the very same, of those that are decoded to anything."""
        pairs = [(a, b) for a, b in _decoded(*facts) if a or b]
        return {"decoded to the same": float(np.mean([a == b for a, b in pairs]))} if pairs else {}


def _steps(side: Side) -> NDArray[Any]:
    steps = np.empty(len(side), object)  # lists, since batches differ in length
    steps[:] = side.argmax(axis=-1).tolist()
    return steps


def _decoded(*facts: NDArray[Any]) -> list[tuple[list[int], list[int]]]:
    expected, got, classes = facts
    usual, last = int(np.bincount(np.concatenate(expected.tolist())).argmax()), int(classes[0]) - 1
    blank = usual if usual in (0, last) else None
    return [(_collapsed(a, blank), _collapsed(b, blank)) for a, b in zip(expected, got, strict=True)]


def _collapsed(steps: list[int], blank: int | None) -> list[int]:
    return [label for label, _ in groupby(steps) if label != blank]


def _alike(a: list[int], b: list[int]) -> float:
    longest = max(len(a), len(b))
    return 1 - edit_distance(a, b) / longest if longest else np.nan


def edit_distance(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and replacements that make ``b`` of ``a`` (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]
