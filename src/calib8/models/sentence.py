"""Sentence embeddings: tokenise, run, pool, normalise, as sentence-transformers does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calib8.data.batching import by_token_budget
from calib8.data.inputs import Arrays
from calib8.data.text import TextTokenizer
from calib8.errors import InputError, ModelError
from calib8.files import read_json
from calib8.progress import Progress, Quiet
from calib8.runtime.base import Runtime

#: Positions per batch: measured best on two cores, see bench/results.
TOKEN_BUDGET = 2048
Embeddings = NDArray[np.float32]


class SentenceEncoder:
    """Turns sentences into vectors with any runtime whose model takes tokens and yields one vector per token.

    ``folder`` is laid out as sentence-transformers does: ``tokenizer.json``, ``1_Pooling/config.json`` (mean or CLS
    pooling; mean if absent) and ``modules.json`` (whether vectors are normalised; yes if absent).
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.tokenizer = TextTokenizer(folder)
        self.pooling, self.normalise = pooling_of(folder)
        self.runtime = runtime

    def embed(self, sentences: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """One vector per sentence, float32 [len(sentences), width], in the order given."""
        progress = progress or Quiet()
        tokens = self.tokenizer.tokens(sentences)
        lengths = np.array([len(sentence) for sentence in tokens], np.int64)
        vectors: Embeddings | None = None
        done = 0
        for rows in by_token_budget(lengths, TOKEN_BUDGET):
            batch = self.tokenizer.padded([tokens[row] for row in rows])
            pooled = pool(self._hidden(batch), batch["attention_mask"], self.pooling)
            if vectors is None:
                vectors = np.zeros((len(tokens), pooled.shape[1]), np.float32)
            vectors[rows] = unit_rows(pooled) if self.normalise else pooled
            done += len(rows)
            progress.update("embed", done, len(tokens))
        return vectors if vectors is not None else np.zeros((0, 0), np.float32)

    def _hidden(self, batch: Arrays) -> NDArray[np.float32]:
        outputs = self.runtime.run(batch)
        for array in outputs.values():
            if array.ndim == 3:
                return np.asarray(array, np.float32)
        shapes = {name: array.ndim for name, array in outputs.items()}
        raise ModelError(
            f"the model is no token encoder: expected an output [batch, sequence, width], got ranks {shapes}."
        )


def pooling_of(folder: Path) -> tuple[Literal["mean", "cls"], bool]:
    """(pooling, whether vectors are normalised) as the folder's sentence-transformers files say."""
    config = Path(folder) / "1_Pooling" / "config.json"
    try:
        settings = read_json(config, "pooling setting") if config.is_file() else {}
    except InputError as error:
        raise ModelError(str(error)) from None
    modes = {key for key, on in settings.items() if key.startswith("pooling_mode") and on is True}
    unsupported = modes - {"pooling_mode_mean_tokens", "pooling_mode_cls_token"}
    if unsupported or len(modes) > 1:
        raise ModelError(
            f"{config} asks for {', '.join(sorted(modes))}; calib8 supports mean or CLS pooling, one of them."
        )
    modules = Path(folder) / "modules.json"
    normalise = not modules.is_file() or "Normalize" in modules.read_text(encoding="utf-8")
    return ("cls" if "pooling_mode_cls_token" in modes else "mean"), normalise


def pool(hidden: NDArray[np.float32], mask: NDArray[np.generic], pooling: Literal["mean", "cls"]) -> Embeddings:
    """[batch, width] from ``hidden`` [batch, sequence, width]: the mean over positions with mask 1, or position 0."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = np.asarray(mask, np.float32)
    return np.asarray(np.einsum("bsw,bs->bw", hidden, weight) / weight.sum(axis=1, keepdims=True), np.float32)


def unit_rows(vectors: Embeddings) -> Embeddings:
    """Each row divided by its Euclidean norm; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)
