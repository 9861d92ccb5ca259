"""Boxes with scores: what a detector finds, after its threshold and non-maximum suppression.

The columns of a box, as detectors have them:
1. [n, boxes, 6] with whole numbers in the last column: corners, score, class: suppressed already.
2. [n, 4 + classes, boxes], more boxes than columns: centre and size, a score for each class (YOLOv8 and later).
3. [n, boxes, 5 + classes]: centre and size, objectness, a score for each class (YOLOv5 to v7, YOLOX).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds.base import Facts, Numbers, Side, Whole

#: Boxes count from this score on, and one that overlaps a better one of its class more than ``SUPPRESSED`` does not.
CONFIDENT, SUPPRESSED = 0.25, 0.45
#: The overlap at which two boxes are the same.
MATCHED = 0.5


@dataclass(frozen=True)
class Detections:
    """Of one sample: corners [k, 4], scores [k] and classes [k], the best first."""

    corners: Numbers
    scores: Numbers
    classes: NDArray[np.int64]


class Boxes(Whole):
    """The share of boxes that the other side has, too: of one class, with an intersection over union of 0.5 or more."""

    name: ClassVar[str] = "boxes"
    score: ClassVar[str] = f"share of boxes matched at IoU {MATCHED}"
    counted: ClassVar[bool] = True

    def facts(self, expected: Side, got: Side) -> Facts:
        """Of each sample: matched boxes, boxes of the reference, of the candidate, and the sum of changes of scores."""
        found = [_matched(detections(a), detections(b)) for a, b in zip(expected, got, strict=True)]
        return tuple(np.array(found, np.float64).T)

    def scores(self, *facts: NDArray[Any]) -> Numbers:
        """Matched boxes over those of the side that has more; NaN where there are none."""
        matched, expected, got, _ = (np.asarray(fact, np.float64) for fact in facts)
        most = np.maximum(expected, got)
        return np.divide(matched, most, out=np.full_like(matched, np.nan), where=most > 0)

    def measures(self, *facts: NDArray[Any]) -> dict[str, float]:
        """Over all samples: boxes of the reference that were found, boxes that are right, mean change of score."""
        matched, expected, got, change = (float(np.sum(np.asarray(fact, np.float64))) for fact in facts)
        told = {"boxes of FP32": expected}
        if expected and got:
            told |= {"found again": matched / expected, "right of those found": matched / got}
        if matched:
            told["mean change of score"] = change / matched
        return told


def detections(output: Numbers | Side) -> Detections:
    """What one sample's ``output`` says, see the head of this file."""
    x = np.asarray(output, np.float64)
    suppressed = x.shape[1] == 6 and x.shape[0] > 0 and bool((x[:, 5] == np.rint(x[:, 5])).all())
    if suppressed:
        corners, scores, classes = x[:, :4], x[:, 4], x[:, 5].astype(np.int64)
    else:
        columns, each = (x.T, x.T[:, 4:]) if x.shape[1] > x.shape[0] else (x, x[:, 4:5] * x[:, 5:])
        centre, half = columns[:, :2], columns[:, 2:4] / 2
        corners = np.concatenate([centre - half, centre + half], axis=1)
        scores, classes = each.max(axis=1), each.argmax(axis=1)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= CONFIDENT]
    found = Detections(corners[order], scores[order], classes[order])
    return found if suppressed else _suppressed(found)


def overlaps(a: Numbers, b: Numbers) -> Numbers:
    """Intersection over union [k, m] of corners [k, 4] and [m, 4]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    sizes = [np.clip(side[:, 2:] - side[:, :2], 0, None).prod(axis=1) for side in (a, b)]
    union = sizes[0][:, None] + sizes[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _suppressed(found: Detections) -> Detections:
    overlapping = overlaps(found.corners, found.corners) > SUPPRESSED
    overlapping &= found.classes[:, None] == found.classes[None]
    kept: list[int] = []
    for box in range(len(found.scores)):
        if not overlapping[box, kept].any():
            kept.append(box)
    return Detections(found.corners[kept], found.scores[kept], found.classes[kept])


def _matched(expected: Detections, got: Detections) -> tuple[int, int, int, float]:
    """Each box of ``got``, the best first, takes the box of its class that it overlaps most, of those that are free."""
    overlap = overlaps(got.corners, expected.corners)
    overlap[got.classes[:, None] != expected.classes[None]] = 0
    matched, change = 0, 0.0
    for box in range(len(got.scores)):
        if overlap.shape[1] and overlap[box].max() >= MATCHED:
            taken = int(overlap[box].argmax())
            change += abs(float(got.scores[box] - expected.scores[taken]))
            overlap[:, taken] = 0
            matched += 1
    return matched, len(expected.scores), len(got.scores), change
