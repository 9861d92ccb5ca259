"""How fast models are, measured by turns in one process."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from calib8.progress import Progress
from calib8.text.sentence import SentenceEncoder

#: Sentences per round: enough for a rate, little enough to wait for.
MOST = 64


class Speed(BaseModel):
    """Median sentences per second, tokenising included, and what ran them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sentences: int
    rounds: int
    reference: float
    candidate: float
    reference_runtime: str
    candidate_runtime: str

    @property
    def ratio(self) -> float:
        """How many times faster the candidate is."""
        return self.candidate / self.reference


class Latency(BaseModel):
    """How long one batch took, one after the other: from arrays in host memory to arrays in host memory.

    ``samples_per_second`` is the batch over its median; percentiles are interpolated between the ``runs``.
    ``gpu_ms`` is what the GPU of an engine computes for, its arrays in the GPU's memory; None on the CPU. ``cosine``
    tells how close the batch's rows are to those of the first artefact, on average; None where that has no meaning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    samples_per_second: float
    gpu_ms: float | None = None
    cosine: float | None = None


def latency_of(seconds: Sequence[float], samples: int) -> Latency:
    """The latency of a batch of ``samples`` from the ``seconds`` of each run (at least one)."""
    median, p95, p99 = (float(number) for number in np.percentile(seconds, [50, 95, 99]))
    return Latency(
        runs=len(seconds),
        median_ms=1e3 * median,
        p95_ms=1e3 * p95,
        p99_ms=1e3 * p99,
        samples_per_second=samples / median,
    )


def by_turns(
    works: Mapping[str, Callable[[], object]],
    *,
    least: int,
    seconds: float = 0.0,
    told: Callable[[int], None] = lambda rounds: None,
) -> dict[str, list[float]]:
    """Seconds that each work took, round by round, so that what else the machine does strikes all alike.

    There are ``least`` rounds, and more until they took ``seconds`` in all; ``told`` hears of every round.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    rounds, spent = 0, 0.0
    while rounds < least or spent < seconds:
        for name, work in works.items():
            start = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - start)
            spent += taken[name][-1]
        rounds += 1
        told(rounds)
    return taken


def race(
    reference: SentenceEncoder,
    candidate: SentenceEncoder,
    sentences: Sequence[str],
    progress: Progress,
    rounds: int = 3,
) -> Speed:
    """Embed up to ``MOST`` of ``sentences`` with both by turns, after a warm-up; the median of ``rounds`` counts."""
    progress.update("measure speed", 0, rounds)  # the warm-up is part of it
    sentences = sentences[:: -(-len(sentences) // MOST)]
    for encoder in (reference, candidate):
        encoder.embed(sentences[:16])
    taken = by_turns(
        {"reference": lambda: reference.embed(sentences), "candidate": lambda: candidate.embed(sentences)},
        least=rounds,
        told=lambda done: progress.update("measure speed", done, rounds),
    )
    return Speed(
        sentences=len(sentences),
        rounds=rounds,
        reference=len(sentences) / statistics.median(taken["reference"]),
        candidate=len(sentences) / statistics.median(taken["candidate"]),
        reference_runtime=reference.runtime.description,
        candidate_runtime=candidate.runtime.description,
    )
