"""Sentence embeddings: tokenise, run, pool, normalise.

The part of sentence-transformers that most of its models use: a Transformer, mean or CLS pooling over all tokens, and
perhaps normalisation; before every text the prompt that the folder has by default. A folder whose files ask for
anything else is refused.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calib8.data.batching import Rows, by_token_budget
from calib8.data.inputs import Arrays
from calib8.data.rooms import most_rows, padded
from calib8.errors import InputError, ModelError
from calib8.files import read_json
from calib8.progress import Progress, Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.pending import Pending
from calib8.text.config import EMBED_POSITIONS
from calib8.text.tokenizer import TextTokenizer, read_settings
from calib8.text.windows import ahead, windows

#: What exporters call the output with a vector for each token.
TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
#: Sentences that are sorted by length and kept in memory together.
WINDOW = 8192
Pooling: TypeAlias = Literal["mean", "cls"]
#: What sentence-transformers writes for them, as a flag each and as the value of ``pooling_mode``.
POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "mean": "mean", "cls": "cls"
}  # fmt: skip
#: Settings of a Pooling module that change nothing here.
IDLE_SETTINGS = ("word_embedding_dimension", "embedding_dimension", "include_prompt")
MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
Embeddings = NDArray[np.float32]


class SentenceEncoder:
    """Turns sentences into vectors with any runtime whose model takes tokens and yields one vector per token.

    ``folder`` is laid out as sentence-transformers does, see ``TextTokenizer`` and ``pooling_of``. Sentences are cut to
    what both the tokenizer's settings and the model allow. ``prompt`` as in ``text_tokenizer``.
    """

    def __init__(self, folder: Path, runtime: Runtime, prompt: str | None = None) -> None:
        self.tokenizer = text_tokenizer(folder, runtime.largest("input_ids", 1), prompt)
        self.pooling, self.normalise = pooling_of(folder)
        self.runtime = runtime
        self.rooms = runtime.rooms("input_ids")

    def embed(self, sentences: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """One vector per sentence, float32 [len(sentences), width], in the order given."""
        found = [vectors for _, vectors in self.stream(sentences, progress, len(sentences))]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def stream(
        self, sentences: Iterable[str | None], progress: Progress | None = None, total: int | None = None
    ) -> Iterator[tuple[list[str], Embeddings]]:
        """(sentences, a vector for each), ``WINDOW`` at a time, in the order given; ``total`` is how many there are.

        None among the sentences: no more will come for now, so that what came is not kept waiting.
        Memory is that of two windows: while one is computed the next is read and tokenised by another thread. Within a
        window sentences are sorted by length, so that there is little padding.
        """
        progress = progress or Quiet()
        done = cut = 0
        progress.update("embed", done, total)
        for texts, (tokens, cut_here) in ahead(map(self._tokenised, windows(sentences, WINDOW))):
            yield texts, self._vectors(tokens, partial(_told, progress, done, total))
            done, cut = done + len(tokens), cut + cut_here
        if total is None:
            progress.update("embed", done, done)
        self.tokenizer.note_cut(cut, done, progress)

    def embed_batch(self, tokens: Sequence[Sequence[int]], length: int | None = None) -> Embeddings:
        """One vector per list of token ids, computed in one run, padded to ``length`` (None: to the longest)."""
        batch = self._fed(tokens, length)
        _, pooled = self._finished(np.arange(len(tokens)), batch, self.runtime.submit(batch))
        return unit_rows(pooled) if self.normalise else pooled

    def _tokenised(self, sentences: list[str]) -> tuple[list[str], tuple[list[list[int]], int]]:
        return sentences, self.tokenizer.encoded(sentences)

    def _vectors(self, tokens: Sequence[Sequence[int]], finished: Callable[[int], None]) -> Embeddings:
        """A vector for each list of tokens; ``finished`` is told how many are."""
        lengths = np.array([len(sentence) for sentence in tokens], np.int64)
        vectors: Embeddings | None = None
        done = 0
        budget = EMBED_POSITIONS
        if self.runtime.streams > 1:  # of few sentences every stream gets some
            budget = min(budget, -(-int(lengths.sum()) // self.runtime.streams))
        for rows, pooled in self._pooled(tokens, by_token_budget(lengths, budget, partial(most_rows, self.rooms))):
            if vectors is None:
                vectors = np.zeros((len(tokens), pooled.shape[1]), np.float32)
            vectors[rows] = unit_rows(pooled) if self.normalise else pooled
            done += len(rows)
            finished(done)
        assert vectors is not None
        return vectors

    def _pooled(self, tokens: Sequence[Sequence[int]], batches: Iterable[Rows]) -> Iterator[tuple[Rows, Embeddings]]:
        """Each batch and its vectors. All streams are busy, and each has a batch waiting."""
        most = 2 * self.runtime.streams + 1
        under_way: deque[tuple[Rows, Arrays, Pending]] = deque()
        for rows in batches:
            if len(under_way) == most:
                yield self._finished(*under_way.popleft())
            batch = self._fed([tokens[row] for row in rows])
            under_way.append((rows, batch, self.runtime.submit(batch)))
        while under_way:
            yield self._finished(*under_way.popleft())

    def _finished(self, rows: Rows, batch: Arrays, run: Pending) -> tuple[Rows, Embeddings]:
        return rows, pool(_hidden(run.result()), batch["attention_mask"], self.pooling)[: len(rows)]

    def _fed(self, tokens: Sequence[Sequence[int]], length: int | None = None) -> Arrays:
        """What is run for ``tokens``: padded to a length and a number of rows that the runtime takes."""
        rows, length = padded(self.rooms, len(tokens), length or max(map(len, tokens)))
        spare = [tokens[-1]] * (rows - len(tokens))
        return token_arrays(self.tokenizer, [*tokens, *spare], self.runtime.contract.names, length)


def _told(progress: Progress, before: int, total: int | None, count: int) -> None:
    progress.update("embed", before + count, total)


def _hidden(outputs: Arrays) -> NDArray[np.float32]:
    """The output [batch, sequence, width], see ``token_output``. Raises ``ModelError`` if there is none."""
    shapes = {name: array.ndim for name, array in outputs.items()}
    if (name := token_output(shapes)) is not None:
        return np.asarray(outputs[name], np.float32)
    raise ModelError(f"the model is no token encoder: expected an output [batch, sequence, width], got ranks {shapes}.")


def token_output(ranks: Mapping[str, int]) -> str | None:
    """Which of the outputs of these ranks has a vector for each token: by its usual name, else the first of rank 3."""
    found = [name for name, rank in ranks.items() if rank == 3]
    return next((name for name in TOKEN_OUTPUTS if name in found), next(iter(found), None))


def token_arrays(
    tokenizer: TextTokenizer, tokens: Sequence[Sequence[int]], inputs: Sequence[str], length: int | None = None
) -> Arrays:
    """What a model with these ``inputs`` is fed for ``tokens``: a sentence is one segment, number 0."""
    arrays = tokenizer.padded(tokens, length)
    if "token_type_ids" in inputs:
        arrays["token_type_ids"] = np.zeros_like(arrays["input_ids"])
    return arrays


def text_tokenizer(folder: Path, max_length: int | None = None, prompt: str | None = None) -> TextTokenizer:
    """The tokenizer in ``folder`` for vectors of texts; ``prompt`` goes before each, None is the folder's default.

    Raises ``ModelError`` if there is a prompt and pooling leaves prompts out.
    """
    tokenizer = TextTokenizer(folder, max_length, prompt)
    home = tokenizer.path.parent
    if tokenizer.prompt and not pools_prompts(home):
        raise ModelError(
            f"the model in {home} has the prompt {tokenizer.prompt!r} before every text, and its pooling leaves the "
            "prompt's tokens out of the vector (include_prompt), which calib8 does not. Set default_prompt_name to "
            "null in config_sentence_transformers.json to embed without one."
        )
    return tokenizer


def pools_prompts(folder: Path) -> bool:
    """Whether the folder's pooling takes the tokens of a prompt like any other: ``include_prompt``, true by default."""
    config, _ = _pooling_config(folder)
    return bool(read_settings(config, "pooling setting").get("include_prompt", True))


def pooling_of(folder: Path) -> tuple[Pooling, bool]:
    """(pooling, whether vectors are normalised) as the folder's sentence-transformers files say.

    ``modules.json`` lists the modules, and its Pooling module has a ``config.json``. Without ``modules.json`` vectors
    are normalised, and mean pooled unless there is a ``1_Pooling/config.json``. Raises ``ModelError`` for files that
    are damaged or ask for what calib8 does not do.
    """
    config, normalised = _pooling_config(folder)
    return _pooling(config), normalised


def _pooling_config(folder: Path) -> tuple[Path, bool]:
    """The settings of the folder's pooling, which may be absent, and whether vectors are normalised."""
    listed = Path(folder) / "modules.json"
    if not listed.is_file():
        return Path(folder) / "1_Pooling" / "config.json", True
    modules = _modules(listed)
    kinds = [kind for kind, _ in modules]
    if kinds not in MODULES:
        raise ModelError(
            f"{listed} asks for {', '.join(kinds) or 'nothing'}; calib8 supports Transformer, Pooling and perhaps "
            "Normalize, in that order."
        )
    config = Path(folder) / dict(modules)["Pooling"] / "config.json"
    if not os.path.isfile(config):  # noqa: PTH113  False for a name too long, where Path raises
        raise ModelError(f"{listed} names a Pooling module, but there is no {config}. Fetch the model again.")
    return config, "Normalize" in kinds


def _modules(path: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in order; kinds without the Python package they are in."""
    try:
        content: Any = read_json(path, "list of modules")
        modules = [(module["type"].rpartition(".")[2], str(module["path"])) for module in content]
    except InputError as error:
        raise ModelError(str(error)) from None
    except (TypeError, KeyError, AttributeError):
        raise ModelError(f"{path} is no list of modules: expected one {{type, path}} each. Fetch it again.") from None
    if outside := [folder for _, folder in modules if ".." in Path(folder).parts or Path(folder).is_absolute()]:
        raise ModelError(f"{path} names the folder {outside[0]!r}, which is not in that of the model. Fetch it again.")
    return modules


def _pooling(config: Path) -> Pooling:
    settings = read_settings(config, "pooling setting")
    named = settings.pop("pooling_mode", ())
    flags = {key: on for key, on in settings.items() if key not in IDLE_SETTINGS}
    asked = [named] if isinstance(named, str) else [*named] if isinstance(named, (list, tuple)) else [str(named)]
    asked += [key for key, on in flags.items() if on is not False]
    if not asked and not flags:
        return "mean"  # sentence-transformers' own default
    modes = {POOLINGS.get(str(mode)) for mode in asked}
    if len(modes) == 1 and (mode := modes.pop()) is not None:
        return mode
    raise ModelError(
        f"{config} asks for {', '.join(sorted(map(str, asked))) or 'no pooling'}; calib8 supports mean or CLS pooling, "
        "one of them."
    )


def pool(hidden: NDArray[np.float32], mask: NDArray[np.generic], pooling: Pooling) -> Embeddings:
    """[batch, width] from ``hidden`` [batch, sequence, width]: the mean over positions with mask 1, or position 0."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = np.asarray(mask, np.float32)
    return np.asarray(np.einsum("bsw,bs->bw", hidden, weight) / weight.sum(axis=1, keepdims=True), np.float32)


def unit_rows(vectors: Embeddings) -> Embeddings:
    """Each row divided by its Euclidean norm; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)
