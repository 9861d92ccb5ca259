"""Run reference and candidate over the same data and compare what comes out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset, Rows
from calib8.errors import AccuracyMissed, DataError
from calib8.numerics import sqnr_db
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.runtime.run_all import run_filled
from calib8.verification.config import Verify
from calib8.verification.details import Details, details_of
from calib8.verification.kinds import KINDS
from calib8.verification.kinds.base import Mask
from calib8.verification.kinds.vectors import NEIGHBOURS
from calib8.verification.measured import Measured, at_least, has_any, kind_of, require_known
from calib8.verification.named import USUAL, KindName
from calib8.verification.outputs import OutputsDiffer, finite_numbers, has_tokens


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
    """How close one output is to the reference's, by its ``kind`` (see ``verification.kinds``).

    ``guessed`` is why it was taken for that kind, None if somebody said so. ``mean``, ``p1`` (1st percentile) and
    ``lowest`` are of the scores of samples, which the kind defines, 1 at best; ``at_least`` is what the mean of other
    such samples is not below, with 95 % confidence. ``scored`` is the number of samples in which there was anything to
    compare, such as a box; None if there was in all. The others do not count. ``measures`` are what else the kind
    tells. ``sqnr_db`` is over all numbers, None if they are equal to the bit. ``pooled`` says how vectors of tokens
    became the one vector of a sample; None where the output has one of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: KindName = "vectors"
    guessed: str | None = None
    mean: float
    p1: float
    lowest: float
    at_least: float
    scored: int | None = None
    measures: dict[str, float] = {}
    sqnr_db: float | None
    pooled: Literal["mean", "cls"] | None = None

    @property
    def score(self) -> str:
        """What the scores are, for people."""
        return KINDS[self.kind].score

    def named(self, output: str) -> str:
        """What was compared, for people: ``output``, or the embedding that was made of it."""
        how = {"mean": "mean", "cls": "first token"}
        return f"embedding ({how[self.pooled]} of {output})" if self.pooled else output


class Comparison(BaseModel):
    """How close a candidate is to its reference, output by output.

    ``details`` are of the output whose mean score falls shortest of what ``convert`` asks of its kind. ``runtime`` ran
    the candidate, ``reference_runtime`` the reference: name, version and arithmetic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    outputs: dict[str, Closeness]
    spearman: Spearman | None = None
    details: Details | None = None
    runtime: str | None = None
    reference_runtime: str | None = None

    @property
    def cosine_mean(self) -> float:
        """Mean cosine of the worst output of vectors; NaN if there is none."""
        return min((one.mean for one in self._vectors()), default=math.nan)

    @property
    def cosine_p1(self) -> float:
        """1st percentile of cosine, as ``cosine_mean``."""
        return min((one.p1 for one in self._vectors()), default=math.nan)

    @property
    def cosine_min(self) -> float:
        """Lowest cosine, as ``cosine_mean``."""
        return min((one.lowest for one in self._vectors()), default=math.nan)

    @property
    def neighbours(self) -> float | None:
        """Share of samples that keep their nearest neighbour, of the worst output; None where it is not measured."""
        found = (one.measures.get(NEIGHBOURS) for one in self._vectors())
        return min((share for share in found if share is not None), default=None)

    @property
    def sqnr_db(self) -> float | None:
        """Of the worst output; None if all are equal to the bit."""
        return min((one.sqnr_db for one in self.outputs.values() if one.sqnr_db is not None), default=None)

    @property
    def worst(self) -> str:
        """The output whose mean score falls shortest of what ``convert`` asks of its kind."""
        return min(self.outputs, key=lambda name: _shortfall(self.outputs[name]))

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
            _judged(self._told(name), one.mean, least)
            for name, one in self.outputs.items()
            if (least := limits.least(name, one.kind)) is not None
        ]
        judged += [
            Judged(f"mean score of {least.name}", self._unmeasured(), f"at least {least.least:g}", kept=False)
            for least in limits.require
            if not any(least.means(name, one.kind) for name, one in self.outputs.items())
        ]
        judged += [
            _judged(name, value, limit)
            if self._vectors()
            else Judged(name, self._unmeasured(), f"at least {limit:.12g}", kept=False)
            for name, value, limit in (
                ("mean cosine", self.cosine_mean, limits.min_cosine),
                ("1st percentile of cosine", self.cosine_p1, limits.min_p1),
                ("neighbour agreement", _or_nan(self.neighbours), limits.min_neighbours),
            )
            if limit is not None
        ]
        if limits.min_sqnr_db is not None:
            judged.append(_judged("SQNR in dB", exact, limits.min_sqnr_db))
        if (loss := limits.max_spearman_loss) is not None:
            found, kept = "not measured: scored pairs are needed (--pairs)", False
            if (scores := self.spearman) is not None:
                found = f"{scores.candidate:.2f} against {scores.reference:.2f}"
                kept = scores.reference - scores.candidate <= loss
            judged.append(Judged("Spearman", found, f"a loss of at most {loss:g}", kept))
        return judged

    def doubts(self, limits: Verify) -> list[str]:
        """What was kept on these samples and may not be on others, since they are few: with the bound, for people."""
        asked = {name: limits.least(name, one.kind, cosine=True) for name, one in self.outputs.items()}
        return [
            f"{self._scored(one)} too few to be sure of {least:g}: with 95 % confidence {self._told(name)} is at least "
            f"{one.at_least:.3f}"
            for name, one in self.outputs.items()
            if (least := asked[name]) is not None and one.at_least < least <= one.mean
        ]

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

    def _vectors(self) -> list[Closeness]:
        return [one for one in self.outputs.values() if one.kind == "vectors"]

    def _scored(self, one: Closeness) -> str:
        if one.scored is None:
            return f"{self.samples} samples are"
        return f"only {one.scored} of {self.samples} samples have anything to compare, which is"

    def _told(self, name: str) -> str:
        """What the mean of an output's scores is called; with its name, if there are several outputs."""
        one = self.outputs[name]
        told = "mean cosine" if one.kind == "vectors" else one.score
        return f"{told} of {name}" if len(self.outputs) > 1 else told

    def _unmeasured(self) -> str:
        kinds = ", ".join(f"{name} ({one.kind})" for name, one in self.outputs.items())
        return f"not measured: the outputs are {kinds}"


def compare(
    reference: Runtime,
    candidate: Runtime,
    data: Dataset,
    *,
    pooling: Literal["mean", "cls"] = "mean",
    kinds: Mapping[str, KindName] | None = None,
    progress: Progress,
) -> Comparison:
    """Compare every output of two runtimes over ``data``, each by its kind: by ``kinds``, or as is guessed.

    Raises ``DataError`` when there is nothing to compare: no common outputs, different shapes, NaN, no row per sample,
    a reference that is zero throughout.
    """
    gathered: dict[str, Gathered] = {}
    done = 0
    progress.update("verify", done, len(data))
    for rows, arrays in data.batches(*(runtime.rooms(data.leading) for runtime in (reference, candidate))):
        mask = np.asarray(arrays[data.mask]) if data.mask else None
        answers = [run_filled(runtime, arrays, data) for runtime in (reference, candidate)]
        expected, got = (
            finite_numbers(runtime, outputs, rows, arrays, mask)
            for runtime, outputs in zip((reference, candidate), answers, strict=True)
        )
        for name in comparable(expected, got, len(rows)):
            if name not in gathered:
                gathered[name] = Gathered(kind_of(name, answers[0][name], mask, pooling, kinds or {}))
            gathered[name].add(rows, expected[name], got[name], mask)
        done += len(rows)
        progress.update("verify", done, len(data))
    require_known(kinds or {}, gathered)
    comparison = Comparison(
        samples=done,
        outputs={name: found.closeness(name) for name, found in gathered.items()},
        runtime=candidate.description,
        reference_runtime=reference.description,
    )
    return comparison.model_copy(update={"details": gathered[comparison.worst].details(comparison.worst)})


class Gathered:
    """What was seen of one output so far, on both sides."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self.signal = self.noise = 0.0
        self.pooled: Literal["mean", "cls"] | None = None
        self.rows: list[Rows] = []

    def add(self, rows: Rows, expected: NDArray[np.float64], got: NDArray[np.float64], mask: Mask) -> None:
        """One more batch."""
        real: Any = np.s_[:]
        if mask is not None and has_tokens(expected, mask):
            real = mask != 0
            self.pooled = self.measured.pooling if self.measured.kind == "vectors" else None
        self.signal += float(np.square(expected[real]).sum())
        self.noise += float(np.square(expected[real] - got[real]).sum())
        self.rows.append(rows)
        self.measured.add(*(self.measured.kept(side, mask) for side in (expected, got)))

    @property
    def anything(self) -> bool:
        """Whether there is anything to compare so far."""
        scores = self.measured.measure.scores(*self.measured.facts())
        return self.signal > 0 and bool(has_any(self.measured.measure, scores).any())

    def closeness(self, name: str) -> Closeness:
        """How close both sides are. Raises ``DataError`` if there was nothing to compare."""
        if self.signal == 0:
            raise DataError(
                f"output {name!r} of the reference is zero throughout, which proves nothing about the candidate. "
                "Verify with other data, or leave that output out of both models."
            )
        kind, facts, ratio = self.measured.measure, self.measured.facts(), sqnr_db(self.signal, self.noise)
        scores = kind.scores(*facts)
        samples, scores = len(scores), scores[has_any(kind, scores)]
        if not len(scores):
            raise DataError(
                f"output {name!r}, taken for {kind.name}, has nothing to compare in any of {samples} samples, which "
                "proves nothing about the candidate. Verify with data in which there is something to find, or say what "
                "the output is (--output-kind)."
            )
        return Closeness(
            kind=self.measured.kind,
            guessed=self.measured.guessed,
            mean=float(scores.mean()),
            p1=float(np.percentile(scores, 1)),
            lowest=float(scores.min()),
            at_least=at_least(kind, scores),
            scored=len(scores) if len(scores) < samples else None,
            measures=kind.measures(*facts),
            sqnr_db=None if math.isinf(ratio) else ratio,
            pooled=self.pooled,
        )

    def details(self, name: str) -> Details:
        """Where the numbers of ``closeness`` come from; ``name`` is the output's."""
        facts = self.measured.facts()
        vectors = facts[1:] if self.measured.kind == "vectors" and len(facts[1]) else None
        scores = self.measured.measure.scores(*facts)
        counts = has_any(self.measured.measure, scores)
        return details_of(name, np.concatenate(self.rows)[counts], scores[counts], vectors)


def comparable(
    reference: dict[str, NDArray[np.float64]], candidate: dict[str, NDArray[np.float64]], samples: int
) -> list[str]:
    """The names of the outputs. Raises ``DataError`` if the sides have not the same, or not a row for each sample."""
    if not reference or set(reference) != set(candidate):
        raise OutputsDiffer(
            f"nothing to compare: the reference has outputs {sorted(reference)}, the candidate {sorted(candidate)}. "
            "Expected two forms of one model."
        )
    for name, expected in reference.items():
        if expected.shape != candidate[name].shape:
            raise OutputsDiffer(
                f"output {name!r} has shape {expected.shape} in the reference and {candidate[name].shape} in the "
                "candidate. Expected two forms of one model."
            )
        if expected.ndim == 0 or len(expected) != samples:
            raise DataError(
                f"output {name!r} has shape {list(expected.shape)} for a batch of {samples}; expected one row per "
                "sample. Leave that output out of both models."
            )
    return list(reference)


def _shortfall(one: Closeness) -> float:
    """How far it is above what is asked of its kind, as a share of what may be lost."""
    return (one.mean - 1) / (1 - USUAL[one.kind])


def _judged(name: str, value: float, limit: float) -> Judged:
    return Judged(name, _told(value, limit), f"at least {limit:.12g}", value >= limit)  # a NaN misses every limit


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _told(value: float, limit: float) -> str:
    """With five digits, or with as many as show that ``value`` is below ``limit``, if it is."""
    digits = next((d for d in range(5, 17) if value >= limit or float(f"{value:.{d}f}") < limit), 5)
    return f"{value:.{digits}f}"
