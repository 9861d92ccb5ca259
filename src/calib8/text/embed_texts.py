"""Texts in, vectors out: at once, or as they come."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from calib8.progress import Progress
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import open_artefact
from calib8.text.sentence import Embeddings, SentenceEncoder


def embed(
    artefact: Path | str,
    sentences: Sequence[str],
    *,
    tokenizer: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> Embeddings:
    """Sentence embeddings [len(sentences), width], in order. ``tokenizer`` is a folder; beside the artefact if None.

    Example:

        >>> calib8.embed("model.int8.onnx", ["A first sentence.", "A second one."]).shape
        (2, 64)
    """
    with open_artefact(Path(artefact), runtime, throughput=True) as opened:
        folder = Path(tokenizer) if tokenizer is not None else Path(artefact).parent
        return SentenceEncoder(folder, opened).embed(sentences, progress)


def embed_stream(
    artefact: Path | str,
    sentences: Iterable[str | None],
    *,
    tokenizer: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> Iterator[tuple[list[str], Embeddings]]:
    """``embed`` for any number of sentences in bounded memory: yields some and their vectors [n, width], in order.

    Sentences are read by another thread, up to 8192 ahead. None among them says that no more will come for now: what
    came before it is embedded.

    Example:

        >>> lines = (f"Sentence {number}." for number in range(100))
        >>> sum(len(vectors) for _, vectors in calib8.embed_stream("model.int8.onnx", lines))
        100
    """
    with open_artefact(Path(artefact), runtime, throughput=True) as opened:
        folder = Path(tokenizer) if tokenizer is not None else Path(artefact).parent
        yield from SentenceEncoder(folder, opened).stream(sentences, progress)
