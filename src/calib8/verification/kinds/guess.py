"""What an output is, by its shape and values: a guess, which is told, and which ``--output NAME=KIND`` overrides.

The first rule that fits:
1. Whole numbers are ids.
2. One value for each sample, or for each token, is a number.
3. A row for each token is a hidden state: vectors.
4. [n, C]: rows that sum to 1 are probabilities of classes; so are the scores of an output that is called so, or that
   has as many columns as ImageNet has classes. Others are vectors.
5. [n, A, B]: rows that sum to 1 (their exponentials: log probabilities), or an output that is called so, are a
   sequence. Many rows, or columns, of four numbers in pixels and scores between 0 and 1 are boxes; offsets in the cells
   of a grid, and logarithms of sizes, as YOLOX gives them where its export does not decode them, are none yet.
   Four numbers for each place, of an output that is called after boxes (DETR's), are numbers.
6. Anything with more axes than 2 is a map if all of it lies between 0 and 1, and numbers if it has four axes or more.
7. Otherwise vectors.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib8.verification.kinds import KindName
from calib8.verification.kinds.base import Mask
from calib8.verification.kinds.classes import are_probabilities
from calib8.verification.outputs import has_tokens

#: What exporters call outputs that hold scores of classes.
NAMED = ("logit", "prob", "class", "softmax", "score", "label")
IMAGENET = (1000, 1001, 21841, 21843)
#: Boxes are many.
MANY = 50
#: Some place in pixels is beyond this, no offset in a cell or logarithm of a size is.
PIXELS = 8


class Guess(NamedTuple):
    """A kind, and what it was taken for that for."""

    kind: KindName
    reason: str


def guess(name: str, output: NDArray[np.generic], mask: Mask) -> Guess:
    """What the reference's output ``name`` [n, ...] is, by the rules above."""
    if output.dtype.kind in "biu":
        return Guess("ids", "whole numbers")
    single = int(np.prod(output.shape[1:], dtype=np.int64)) == 1
    if mask is not None and has_tokens(output, mask):
        return (
            Guess("vectors", "a row for each token") if output.shape[2] > 1 else Guess("number", "one for each token")
        )
    if single:
        return Guess("number", "one for each sample")
    x, called = np.asarray(output, np.float64), next((word for word in NAMED if word in name.lower()), None)
    if x.ndim == 3 and x.shape[2] == 4 and "box" in name.lower():
        return Guess("number", "four numbers each, and its name has 'box'")
    return _row(x, called) if x.ndim == 2 else (_table(x, called) if x.ndim == 3 else None) or _dense(x)


def _row(x: NDArray[np.float64], called: str | None) -> Guess:
    if are_probabilities(x):
        return Guess("classes", "rows that sum to 1")
    if called is not None:
        return Guess("classes", f"its name has {called!r}")
    if x.shape[1] in IMAGENET:
        return Guess("classes", f"{x.shape[1]} columns, as many as ImageNet has classes")
    return Guess("vectors", "nothing tells otherwise")


def _table(x: NDArray[np.float64], called: str | None) -> Guess | None:
    if are_probabilities(x):
        return Guess("sequences", "steps whose probabilities sum to 1")
    with np.errstate(over="ignore"):
        if x.max() <= 0 and are_probabilities(np.exp(x)):
            return Guess("sequences", "steps whose log probabilities sum to 1")
    if _are_boxes(x):
        return Guess("boxes", "many boxes of four numbers, and scores between 0 and 1")
    if called is not None:
        return Guess("sequences", f"its name has {called!r}")
    return None


def _dense(x: NDArray[np.float64]) -> Guess:
    if x.size and x.min() >= 0 and x.max() <= 1:
        return Guess("maps", "all of it between 0 and 1")
    return Guess("number", "four axes or more") if x.ndim > 3 else Guess("vectors", "nothing tells otherwise")


def _are_boxes(x: NDArray[np.float64]) -> bool:
    columns = np.moveaxis(x, 1, 2) if x.shape[2] > x.shape[1] else x
    places, scores = columns[..., :4], columns[..., 4:]
    if columns.shape[1] < MANY or not 5 <= columns.shape[2] <= columns.shape[1]:
        return False
    suppressed = columns.shape[2] == 6 and bool((columns[..., 5] == np.rint(columns[..., 5])).all())
    within = scores[..., :1] if suppressed else scores
    return bool(places.max() > PIXELS and within.min() >= 0 and within.max() <= 1)
