"""Sentences per second of two encoders, measured by turns in one process."""

import statistics
import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from calib8.models.sentence import SentenceEncoder
from calib8.progress import Progress

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


def race(
    reference: SentenceEncoder,
    candidate: SentenceEncoder,
    sentences: Sequence[str],
    progress: Progress,
    rounds: int = 3,
) -> Speed:
    """Embed up to ``MOST`` of ``sentences`` with both by turns, after a warm-up; the median of ``rounds`` counts."""
    sentences = sentences[:: -(-len(sentences) // MOST)]
    rates: dict[str, list[float]] = {"reference": [], "candidate": []}
    encoders = {"reference": reference, "candidate": candidate}
    for encoder in encoders.values():
        encoder.embed(sentences[:16])
    for done in range(rounds):
        for role, encoder in encoders.items():
            start = time.perf_counter()
            encoder.embed(sentences)
            rates[role].append(len(sentences) / (time.perf_counter() - start))
        progress.update("measure speed", done + 1, rounds)
    return Speed(
        sentences=len(sentences),
        rounds=rounds,
        reference=statistics.median(rates["reference"]),
        candidate=statistics.median(rates["candidate"]),
        reference_runtime=reference.runtime.description,
        candidate_runtime=candidate.runtime.description,
    )
