"""Run reference and candidate over the same data and compare what comes out."""

import math
import sys
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset
from calib8.errors import AccuracyMissed, DataError
from calib8.models.sentence import pool, unit_rows
from calib8.numerics import cosine_rows
from calib8.progress import Progress
from calib8.runtime.base import Runtime
from calib8.verification.config import Verify
from calib8.verification.metrics import neighbour_agreement


class Spearman(BaseModel):
    """100 x rank correlation between cosine similarity and the human scores of sentence pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int
    reference: float
    candidate: float


class Comparison(BaseModel):
    """How close a candidate is to its reference. Cosines are per sample; ``sqnr_db`` is per output, None if exact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    neighbours: float | None
    sqnr_db: dict[str, float | None]
    spearman: Spearman | None = None

    def raise_for_failure(self, limits: Verify) -> None:
        """Raise ``AccuracyMissed`` that names every limit that was missed."""
        missed = [
            f"{name} {value:.5f}, expected at least {limit:g}"
            for name, value, limit in (
                ("mean cosine", self.cosine_mean, limits.min_cosine),
                ("1st percentile of cosine", self.cosine_p1, limits.min_p1),
                ("neighbour agreement", _or_nan(self.neighbours), limits.min_neighbours),
            )
            if limit is not None and not value >= limit  # a NaN misses every limit
        ]
        if limits.max_spearman_loss is not None:
            if self.spearman is None:
                missed.append("no Spearman correlation was measured: scored pairs are needed (--pairs)")
            elif not self.spearman.reference - self.spearman.candidate <= limits.max_spearman_loss:
                missed.append(
                    f"Spearman {self.spearman.candidate:.2f} against {self.spearman.reference:.2f}, "
                    f"expected a loss of at most {limits.max_spearman_loss:g}"
                )
        if missed:
            raise AccuracyMissed(
                f"accuracy limit missed on {self.samples} samples: {'; '.join(missed)}. Calibrate on more or more "
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
    """Compare the outputs of two runtimes over ``data``.

    A sample's vector is its first output: pooled over real positions where the output is [batch, sequence, width] and
    the model has a mask input, flattened otherwise. Raises ``DataError`` when there is nothing to compare: no common
    outputs, different shapes, NaN.
    """
    vectors: dict[str, list[NDArray[np.float32]]] = {"reference": [], "candidate": []}
    power: dict[str, tuple[float, float]] = {}
    done = 0
    for rows, arrays in data.batches():
        mask = np.asarray(arrays[data.mask]) if data.mask else None
        outputs = reference.run(arrays), candidate.run(arrays)
        names = _common(*outputs)
        for name in names:
            expected, got = (_real_rows(name, output[name], mask) for output in outputs)
            signal, noise = power.get(name, (0.0, 0.0))
            power[name] = (signal + _power(expected), noise + _power(expected - got))
        for role, output in zip(vectors, outputs, strict=True):
            vectors[role].append(_sample_vectors(output[names[0]], mask, pooling))
        done += len(rows)
        progress.update("verify", done, len(data))
    return summarise(
        np.concatenate(vectors["reference"]),
        np.concatenate(vectors["candidate"]),
        {n: _db(*p) for n, p in power.items()},
    )


def summarise(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], sqnr_db: dict[str, float | None]
) -> Comparison:
    """The comparison of per-sample vectors [N, D]. Raises ``DataError`` on no samples or NaN."""
    if not len(reference) or reference.shape != candidate.shape:
        raise DataError(
            f"nothing to compare: got vectors {reference.shape} and {candidate.shape}, expected equal shapes."
        )
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise DataError(
            "a sample's vector holds NaN or infinity: the model is broken, or FP16 overflowed. Try --remainder fp32."
        )
    cosines = cosine_rows(reference, candidate)
    return Comparison(
        samples=len(cosines),
        cosine_mean=float(cosines.mean()),
        cosine_p1=float(np.percentile(cosines, 1)),
        cosine_min=float(cosines.min()),
        neighbours=neighbour_agreement(unit_rows(reference), unit_rows(candidate)) if len(cosines) >= 3 else None,
        sqnr_db=sqnr_db,
    )


def _common(reference: dict[str, NDArray[np.generic]], candidate: dict[str, NDArray[np.generic]]) -> list[str]:
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
    return list(reference)


def _real_rows(name: str, output: NDArray[np.generic], mask: NDArray[np.generic] | None) -> NDArray[np.float64]:
    array = np.asarray(output, np.float64)
    if mask is not None and array.ndim == 3 and array.shape[:2] == mask.shape:
        array = array[mask != 0]
    if not np.isfinite(array).all():
        raise DataError(
            f"output {name!r} holds NaN or infinity: the model is broken, or FP16 overflowed. Try --remainder fp32."
        )
    return array


def _sample_vectors(
    output: NDArray[np.generic], mask: NDArray[np.generic] | None, pooling: Literal["mean", "cls"]
) -> NDArray[np.float32]:
    array = np.asarray(output, np.float32)
    if mask is not None and array.ndim == 3 and array.shape[:2] == mask.shape:
        return pool(array, mask, pooling)
    return array.reshape(len(array), -1)


def _power(x: NDArray[np.float64]) -> float:
    return float(np.square(x).sum())


def _db(signal: float, noise: float) -> float | None:
    """None only where there is no noise; very low (JSON has no -inf) where there is noise and no signal."""
    return 10 * math.log10(max(signal, sys.float_info.min) / noise) if noise > 0 else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
