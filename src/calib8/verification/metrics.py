"""The numbers a verdict rests on: cosine, nearest-neighbour agreement, rank correlation. Pure numpy."""

import numpy as np
from numpy.typing import NDArray

from calib8.numerics import Floats

#: Rows of the similarity matrix computed at a time, so that memory stays bounded for large sets.
BLOCK = 1024


def neighbour_agreement(reference: Floats, candidate: Floats) -> float:
    """Share of rows whose nearest neighbour in the reference index stays the same when the candidate asks for it.

    Both are unit rows [N, D], N >= 3. Users with an existing FP32 index query it with INT8 vectors: for each i the
    nearest j != i of ``reference[i]`` and of ``candidate[i]`` among the rows of ``reference`` are compared.
    """
    same = 0
    for start in range(0, len(reference), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(reference)))
        nearest = []
        for queries in (reference[rows], candidate[rows]):
            similarity = queries @ reference.T
            similarity[rows - start, rows] = -np.inf
            nearest.append(similarity.argmax(axis=1))
        same += int((nearest[0] == nearest[1]).sum())
    return same / len(reference)


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two vectors [N], with average ranks for ties; NaN if one is constant."""
    ranks = [_average_ranks(np.asarray(x, np.float64)) for x in (a, b)]
    centred = [rank - rank.mean() for rank in ranks]
    norm = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    return float(centred[0] @ centred[1] / norm) if norm > 0 else float("nan")


def _average_ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((last - counts + last - 1) / 2)[group], np.float64)
