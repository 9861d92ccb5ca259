"""Scored sentence pairs, the semantic textual similarity (STS) task: does the ranking survive quantisation?"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calib8.errors import DataError
from calib8.files import read_bytes
from calib8.numerics import cosine_rows
from calib8.progress import Progress
from calib8.text.sentence import SentenceEncoder
from calib8.verification.compare import Spearman
from calib8.verification.metrics import spearman
from calib8.verification.outputs import not_finite

Pair = tuple[str, str, float]


def read_pairs(path: Path) -> list[Pair]:
    """Rows (sentence 1, sentence 2, score) of a UTF-8 CSV file without a header. Raises ``DataError``."""
    content = read_bytes(path, "file of scored pairs")
    try:
        rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]
        pairs = [(first, second, float(score)) for first, second, score in rows]
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: expected three columns sentence1, sentence2, score and no header ({error})."
        ) from None
    if len(pairs) < 3 or not all(math.isfinite(score) for _, _, score in pairs):
        raise DataError(f"{path}: expected at least three pairs with finite scores, got {len(pairs)} pairs.")
    return pairs


def rank_correlation(
    reference: SentenceEncoder, candidate: SentenceEncoder, pairs: Sequence[Pair], progress: Progress
) -> Spearman:
    """100 x Spearman's correlation between cosine similarity and score, for both encoders."""
    sentences = [first for first, _, _ in pairs] + [second for _, second, _ in pairs]
    scores = np.array([score for _, _, score in pairs])
    values = []
    for encoder in (reference, candidate):
        vectors = encoder.embed(sentences, progress)
        if not np.isfinite(vectors).all():
            raise not_finite("an embedding", encoder.runtime)
        values.append(100 * spearman(cosine_rows(vectors[: len(pairs)], vectors[len(pairs) :]), scores))
    return Spearman(pairs=len(pairs), reference=values[0], candidate=values[1])
