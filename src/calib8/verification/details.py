"""Where a comparison's numbers come from: how scores spread, which samples are worst, where embeddings moved to."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from calib8.numerics import Floats
from calib8.text.sentence import unit_rows

#: What is kept at most, so that a report stays small for any amount of data.
BINS, WORST, POINTS, CHARACTERS = 30, 10, 300, 300
#: Of a histogram: models that are equal but for rounding have no spread to divide into bins.
NARROWEST = 1e-6

Place = tuple[float, float]
#: A text, cut to what is kept.
Excerpt = Annotated[str, Field(max_length=CHARACTERS)]


class Histogram(BaseModel):
    """How many values fall between neighbouring ``edges``, one edge more than ``counts``; the last bin is closed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class WorstSample(BaseModel):
    """A sample far from the reference: its number in the data, from 0, and its text where that is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    score: float
    text: Excerpt | None = None


class Projection(BaseModel):
    """Unit vectors of up to ``POINTS`` samples on the two principal axes of the reference's own vectors.

    ``explained`` is the share of the reference's variance along each axis.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    explained: Place
    reference: tuple[Place, ...]
    candidate: tuple[Place, ...]


class Details(BaseModel):
    """The samples behind the numbers of ``output``, the worst one's. The worst samples come first.

    ``projection`` is None where vectors differ in length or are too few to span a plane.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    scores: Histogram
    worst: tuple[WorstSample, ...]
    projection: Projection | None

    def with_texts(self, texts: Sequence[str]) -> "Details":
        """The same, with the text of each of the worst; ``texts`` are those of all samples, in order."""
        known = (one.model_copy(update={"text": excerpt(texts[one.number])}) for one in self.worst)
        return self.model_copy(update={"worst": tuple(known)})

    def without_texts(self) -> "Details":
        """The same, quoting nobody."""
        return self.model_copy(update={"worst": tuple(one.model_copy(update={"text": None}) for one in self.worst)})


def details_of(
    output: str,
    numbers: NDArray[np.int64],
    scores: NDArray[np.float64],
    vectors: Sequence[NDArray[np.float32]] | None,
) -> Details:
    """``scores`` [n] and ``vectors`` [n, width] of reference and candidate belong to the samples ``numbers`` [n]."""
    top = max(1.0, float(scores.max()))
    counts, edges = np.histogram(scores, BINS, (min(float(scores.min()), top - NARROWEST), top))
    order = np.lexsort((numbers, scores))[:WORST]
    return Details(
        output=output,
        scores=Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist())),
        worst=tuple(WorstSample(number=int(numbers[row]), score=float(scores[row])) for row in order),
        projection=None if vectors is None else project(*vectors),
    )


def project(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Projection | None:
    """Principal component analysis of ``reference`` [n, width]; ``candidate`` goes to the same plane.

    None with fewer than three samples, two columns, or where all reference vectors are equal.
    """
    if len(reference) < 3 or reference.shape[1] < 2:
        return None
    kept = np.linspace(0, len(reference) - 1, min(len(reference), POINTS)).round().astype(np.int64)
    expected, got = unit_rows(reference[kept]), unit_rows(candidate[kept])
    centre = expected.mean(axis=0)
    _, sizes, axes = np.linalg.svd(expected - centre, full_matrices=False)
    if not (variance := float(np.square(sizes).sum())):
        return None
    plane = axes[:2]
    plane = plane * np.sign(plane[np.arange(2), np.abs(plane).argmax(axis=1)])[:, None]  # the same way round always
    first, second = (float(size) ** 2 / variance for size in sizes[:2])
    return Projection(
        explained=(first, second),
        reference=_places((expected - centre) @ plane.T),
        candidate=_places((got - centre) @ plane.T),
    )


def _places(points: Floats) -> tuple[Place, ...]:
    return tuple((round(float(x), 5), round(float(y), 5)) for x, y in points)


def excerpt(text: str) -> str:
    """The beginning of ``text``, with an ellipsis where it was cut."""
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
