"""Run reference and candidate over the same data and compare what comes out."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset, Rows
from calib8.errors import AccuracyMissed, DataError
from calib8.numerics import cosine_rows, sqnr_db
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.runtime.run_all import run_filled
from calib8.text.sentence import unit_rows
from calib8.verification.config import Verify
from calib8.verification.details import Details, details_of
from calib8.verification.metrics import neighbour_agreement
from calib8.verification.outputs import finite_numbers, has_tokens, vectors_of


class Spearman(BaseModel):
    """100 x rank correlation between cosine similarity and the human scores of sentence pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int
    reference: float
    candidate: float


class Judged(NamedTuple):
    """A number beside its limit, for people: ``mean cosine``, ``0.99850``, ``at least 0.975``."""

    name: str
    found: str
    wanted: str
    kept: bool


class Closeness(BaseModel):
    """How close one output is to the reference's.

    Cosines are per sample. ``neighbours`` is None with fewer than three samples, or if their vectors differ in length;
    ``sqnr_db`` is over all numbers, None if they are equal to the bit. ``pooled`` says how vectors of tokens became the
    one vector of a sample that cosines and neighbours are of; None where the output has one of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    neighbours: float | None
    sqnr_db: float | None
    pooled: Literal["mean", "cls"] | None = None

    def named(self, output: str) -> str:
        """What was compared, for people: ``output``, or the embedding that was made of it."""
        how = {"mean": "mean", "cls": "first token"}
        return f"embedding ({how[self.pooled]} of {output})" if self.pooled else output


class Comparison(Closeness):
    """How close a candidate is to its reference: each of ``outputs``, and as its own numbers the worst of them.

    ``details`` are of the output with the lowest mean cosine. ``runtime`` ran the candidate, ``reference_runtime`` the
    reference: name, version and arithmetic.
    """

    samples: int
    outputs: dict[str, Closeness]
    spearman: Spearman | None = None
    details: Details | None = None
    runtime: str | None = None
    reference_runtime: str | None = None

    def with_texts(self, texts: Sequence[str] | None) -> "Comparison":
        """The same, with the texts of the worst samples; ``texts`` are those of all samples in order, if known."""
        if texts is None or self.details is None:
            return self
        return self.model_copy(update={"details": self.details.with_texts(texts)})

    def without_texts(self) -> "Comparison":
        """The same without the texts of the worst samples."""
        return self if self.details is None else self.model_copy(update={"details": self.details.without_texts()})

    def judged(self, limits: Verify) -> list[Judged]:
        """Every limit that was given, kept or missed."""
        exact = math.inf if self.sqnr_db is None else self.sqnr_db
        judged = [
            Judged(name, _told(value, limit), f"at least {limit:.12g}", value >= limit)  # a NaN misses every limit
            for name, value, limit in (
                ("mean cosine", self.cosine_mean, limits.min_cosine),
                ("1st percentile of cosine", self.cosine_p1, limits.min_p1),
                ("neighbour agreement", _or_nan(self.neighbours), limits.min_neighbours),
                ("SQNR in dB", exact, limits.min_sqnr_db),
            )
            if limit is not None
        ]
        if (loss := limits.max_spearman_loss) is not None:
            found, kept = "not measured: scored pairs are needed (--pairs)", False
            if (scores := self.spearman) is not None:
                found = f"{scores.candidate:.2f} against {scores.reference:.2f}"
                kept = scores.reference - scores.candidate <= loss
            judged.append(Judged("Spearman", found, f"a loss of at most {loss:g}", kept))
        return judged

    def raise_for_failure(self, limits: Verify) -> None:
        """Raise ``AccuracyMissed`` that names every limit that was missed."""
        judged = self.judged(limits)
        missed = [f"{name} {found}, expected {wanted}" for name, found, wanted, kept in judged if not kept]
        if missed:
            of = f", the worst of the outputs {', '.join(self.outputs)}" if len(self.outputs) > 1 else ""
            raise AccuracyMissed(
                f"accuracy limit missed on {self.samples} samples: {'; '.join(missed)}{of}. Calibrate on more or more "
                "typical data, or leave more ops in float (--min-sqnr, --exclude)."
            )


def compare(
    reference: Runtime,
    candidate: Runtime,
    data: Dataset,
    *,
    pooling: Literal["mean", "cls"] = "mean",
    progress: Progress,
) -> Comparison:
    """Compare every output of two runtimes over ``data``.

    A sample's vector is the output pooled over real positions where it is [batch, sequence, width] and the model has a
    mask input, and flattened otherwise. Raises ``DataError`` when there is nothing to compare: no common outputs,
    different shapes, NaN, no row per sample, a reference that is zero throughout.
    """
    gathered: dict[str, _Gathered] = {}
    done = 0
    progress.update("verify", done, len(data))
    for rows, arrays in data.batches(*(runtime.rooms(data.leading) for runtime in (reference, candidate))):
        mask = np.asarray(arrays[data.mask]) if data.mask else None
        expected, got = (
            finite_numbers(runtime, run_filled(runtime, arrays, data), rows, arrays, mask)
            for runtime in (reference, candidate)
        )
        for name in _common(expected, got, len(rows)):
            gathered.setdefault(name, _Gathered()).add(rows, expected[name], got[name], mask, pooling)
        done += len(rows)
        progress.update("verify", done, len(data))
    comparison = worst({name: found.closeness(name) for name, found in gathered.items()}, done)
    name = min(comparison.outputs, key=lambda name: comparison.outputs[name].cosine_mean)
    ran = {"runtime": candidate.description, "reference_runtime": reference.description}
    return comparison.model_copy(update={"details": gathered[name].details(name), **ran})


def worst(outputs: dict[str, Closeness], samples: int) -> Comparison:
    """The comparison that the closeness of each output (at least one) amounts to."""
    found = list(outputs.values())
    return Comparison(
        samples=samples,
        cosine_mean=min(one.cosine_mean for one in found),
        cosine_p1=min(one.cosine_p1 for one in found),
        cosine_min=min(one.cosine_min for one in found),
        neighbours=min((one.neighbours for one in found if one.neighbours is not None), default=None),
        sqnr_db=min((one.sqnr_db for one in found if one.sqnr_db is not None), default=None),
        outputs=outputs,
    )


class _Gathered:
    """What was seen of one output so far."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.pooled: Literal["mean", "cls"] | None = None
        self.rows: list[Rows] = []
        self.cosines: list[NDArray[np.float64]] = []
        #: Vectors of reference and candidate, while all are of one length.
        self.vectors: list[tuple[NDArray[np.float32], NDArray[np.float32]]] | None = []

    def add(
        self,
        rows: Rows,
        expected: NDArray[np.float64],
        got: NDArray[np.float64],
        mask: NDArray[np.generic] | None,
        pooling: Literal["mean", "cls"],
    ) -> None:
        real: Any = np.s_[:]
        if mask is not None and has_tokens(expected, mask):
            real, self.pooled = mask != 0, pooling
        self._add_power(expected[real], got[real])
        self.rows.append(rows)
        vectors = vectors_of(expected, mask, pooling), vectors_of(got, mask, pooling)
        self.cosines.append(cosine_rows(*vectors))
        if self.vectors and self.vectors[0][0].shape[1] != vectors[0].shape[1]:
            self.vectors = None
        if self.vectors is not None:
            self.vectors.append(vectors)

    def closeness(self, name: str) -> Closeness:
        if self.signal == 0:
            raise DataError(
                f"output {name!r} of the reference is zero throughout, which proves nothing about the candidate. "
                "Verify with other data, or leave that output out of both models."
            )
        cosines, ratio = np.concatenate(self.cosines), sqnr_db(self.signal, self.noise)
        return Closeness(
            cosine_mean=float(cosines.mean()),
            cosine_p1=float(np.percentile(cosines, 1)),
            cosine_min=float(cosines.min()),
            neighbours=self._neighbours() if len(cosines) >= 3 else None,
            sqnr_db=None if math.isinf(ratio) else ratio,
            pooled=self.pooled,
        )

    def details(self, name: str) -> Details:
        """Where the numbers of ``closeness`` come from; ``name`` is the output's."""
        return details_of(name, np.concatenate(self.rows), np.concatenate(self.cosines), self._joined())

    def _add_power(self, expected: NDArray[np.float64], got: NDArray[np.float64]) -> None:
        self.signal += float(np.square(expected).sum())
        self.noise += float(np.square(expected - got).sum())

    def _neighbours(self) -> float | None:
        if (joined := self._joined()) is None:
            return None
        reference, candidate = map(unit_rows, joined)
        return neighbour_agreement(reference, candidate)

    def _joined(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Vectors of reference and candidate, [samples, width] each, in the order of ``rows``."""
        if self.vectors is None:
            return None
        reference, candidate = (np.concatenate(side) for side in zip(*self.vectors, strict=True))
        return reference, candidate


def _common(
    reference: dict[str, NDArray[np.float64]], candidate: dict[str, NDArray[np.float64]], samples: int
) -> list[str]:
    if not reference or set(reference) != set(candidate):
        raise DataError(
            f"nothing to compare: the reference has outputs {sorted(reference)}, the candidate {sorted(candidate)}. "
            "Expected two forms of one model."
        )
    for name, expected in reference.items():
        if expected.shape != candidate[name].shape:
            raise DataError(
                f"output {name!r} has shape {expected.shape} in the reference and {candidate[name].shape} in the "
                "candidate. Expected two forms of one model."
            )
        if expected.ndim == 0 or len(expected) != samples:
            raise DataError(
                f"output {name!r} has shape {list(expected.shape)} for a batch of {samples}; expected one row per "
                "sample. Leave that output out of both models."
            )
    return list(reference)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _told(value: float, limit: float) -> str:
    """With five digits, or with as many as show that ``value`` is below ``limit``, if it is."""
    digits = next((d for d in range(5, 17) if value >= limit or float(f"{value:.{d}f}") < limit), 5)
    return f"{value:.{digits}f}"
