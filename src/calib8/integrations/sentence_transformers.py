"""An ONNX model or engine in the place of a ``sentence_transformers.SentenceTransformer``.

    from calib8.integrations.sentence_transformers import load

    model = load("build/mpnet/model.int8.onnx")
    vectors = model.encode(["a sentence", "another"], normalize_embeddings=True)

Neither sentence-transformers nor PyTorch is needed, nor imported, unless what is asked for is theirs: tensors,
``similarity``, or embeddings in another ``precision``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from calib8.console import ConsoleProgress
from calib8.errors import ConfigError, DataError, InputError, SetupError, install
from calib8.precision import GRIDS
from calib8.runtime.base import Runtime
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import open_artefact
from calib8.text.sentence import Embeddings, SentenceEncoder, pools_prompts, text_tokenizer, unit_rows
from calib8.text.tokenizer import SENTENCE_SETTINGS, SHORTEST, prompts_of, read_settings

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
#: What ``load`` looks for in a folder, the first that is there.
MODELS = (*(f"model.{precision}.onnx" for precision in GRIDS), "model.onnx")
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
#: Names of prompts that sentence-transformers looks for by itself; it takes the first that a model has.
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def load(
    artefact: Path | str,
    tokenizer: Path | str | None = None,
    *,
    runtime: CpuRuntime = "auto",
    truncate_dim: int | None = None,
    device: Any = None,
) -> Encoder:
    """Open a sentence encoder, an ONNX model or an engine, for those who know ``SentenceTransformer``.

    artefact: its file, or a folder with ``model.int8.onnx`` in it, else of another precision, else ``model.onnx``.
    tokenizer: the folder of its tokenizer and sentence-transformers files; beside the artefact if None.
    truncate_dim: leading dimensions of each vector that are kept, all if None.
    device: taken and without effect: the artefact decides where it runs.
    Close it, or use it in a ``with`` block. Raises what ``calib8.embed`` does.
    """
    path = _artefact_in(Path(artefact))
    folder = Path(tokenizer) if tokenizer is not None else path.parent
    opened = open_artefact(path, runtime, throughput=True)
    try:
        return Encoder(opened, folder, truncate_dim)
    except BaseException:
        opened.close()
        raise


def _artefact_in(path: Path) -> Path:
    """``path`` itself, or the model in it if it is a folder. Raises ``InputError`` where there is none."""
    if not path.is_dir():
        return path
    found = next((path / name for name in MODELS if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"{path} is a folder without {' or '.join(MODELS)}. Name the ONNX model or engine itself.")
    return found


class Encoder:
    """What ``load`` gives: ``encode`` and its relatives as in ``SentenceTransformer`` of sentence-transformers 6.

    Vectors are those of ``calib8.embed``. Several threads may encode at once.
    """

    def __init__(self, runtime: Runtime, folder: Path, truncate_dim: int | None = None) -> None:
        folder = folder.parent if folder.name == "tokenizer.json" else folder
        settings = read_settings(folder / SENTENCE_SETTINGS, "sentence-transformers setting")
        known = prompts_of(folder)
        #: Name -> what goes before a text, and the name of the one that does if none is asked for.
        self.prompts, self.default_prompt_name = known.named, known.default_name
        self._pools_prompts = pools_prompts(folder)
        self._folder = folder
        self._encoder = SentenceEncoder(folder, runtime, prompt="")  # ``encode`` adds the one that is asked for
        self._longest = self._encoder.tokenizer.max_length
        self.truncate_dim = _checked_dim(truncate_dim)
        self.similarity_fn_name = settings.get("similarity_fn_name") or "cosine"
        #: What evaluators report to; see ``Evaluations``.
        self.model_card_data = Evaluations()

    def encode(  # noqa: PLR0913, PLR0917
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **others: Any,
    ) -> Any:
        """The vector of a text, float32 [width], or of a list of texts, [len(inputs), width], in the order given.

        Before each text goes ``prompt``, else the model's of the name ``prompt_name``, else its prompt by default.
        Vectors are cut to ``truncate_dim`` first, then normalised if asked, then brought to ``precision``, by
        sentence-transformers itself. ``convert_to_tensor`` gives a PyTorch tensor, neither that nor
        ``convert_to_numpy`` a list of them. ``sentences``, the former name of ``inputs``, is taken too. ``batch_size``
        and ``device`` are taken and change nothing: batches are made by length, and the artefact decides where it runs.
        Raises ``ConfigError`` for what else ``SentenceTransformer`` could do, ``DataError`` for inputs that are no
        texts, ``SetupError`` where a package is missing.
        """
        inputs = _inputs(inputs, others)
        _refuse_others(others)
        if output_value != "sentence_embedding":
            raise ConfigError(f"got output_value={output_value!r}; calib8 has 'sentence_embedding' only.")
        if precision not in (None, *PRECISIONS):
            raise ConfigError(f"got precision={precision!r}, expected one of {', '.join(PRECISIONS)}.")
        if batch_size < 1:
            raise ConfigError(f"got batch_size={batch_size}, expected 1 or more.")
        prompt = self._prompt(prompt, prompt_name)
        texts = [prompt + text for text in _texts(inputs)]
        vectors = self._vectors(texts, bool(show_progress_bar))
        dim = _checked_dim(truncate_dim) or self.truncate_dim
        vectors = vectors[:, :dim]
        if normalize_embeddings:
            vectors = unit_rows(vectors)
        converted: Any = np.ascontiguousarray(vectors)
        if texts and precision is not None and precision != "float32":
            converted = _quantised(converted, precision)
        if convert_to_tensor or not convert_to_numpy:
            converted = _torch().from_numpy(converted)
            converted = converted if convert_to_tensor else list(converted)
        return converted[0] if isinstance(inputs, str) else converted

    def encode_query(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *given: Any, **options: Any
    ) -> Any:
        """``encode`` with the model's prompt for queries, if no other is asked for."""
        name = self._name(QUERY_PROMPTS) if prompt_name is None and prompt is None else prompt_name
        return self.encode(inputs, name, prompt, *given, **options)

    def encode_document(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *given: Any, **options: Any
    ) -> Any:
        """``encode`` with the model's prompt for documents, if no other is asked for."""
        name = self._name(DOCUMENT_PROMPTS) if prompt_name is None and prompt is None else prompt_name
        return self.encode(inputs, name, prompt, *given, **options)

    def get_embedding_dimension(self) -> int:
        """The width of the vectors that ``encode`` gives."""
        return min(self._width, self.truncate_dim or self._width)

    #: Its former name, which much code still uses.
    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """How many tokens of a text count, the special ones among them; the rest is cut off."""
        return self._encoder.tokenizer.max_length

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        """Raises ``ConfigError`` for more than the model and its settings allow."""
        if not isinstance(tokens, int) or not SHORTEST <= tokens <= self._longest:
            raise ConfigError(
                f"got max_seq_length={tokens!r}, expected {SHORTEST} to {self._longest}, which is what the model takes."
            )
        self._encoder.tokenizer = text_tokenizer(self._folder, tokens, "")

    @property
    def device(self) -> str:
        """Where the artefact runs: ``cuda`` for an engine, else ``cpu``."""
        return "cuda" if self._encoder.runtime.computes_fp16 else "cpu"  # engines alone do

    @property
    def similarity_fn_name(self) -> str:
        """The similarity that ``similarity`` computes and evaluators take by default."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        value = str(getattr(name, "value", name))  # theirs is an enum
        if value not in SIMILARITIES:
            raise ConfigError(f"got the similarity {value!r}, expected one of {', '.join(SIMILARITIES)}.")
        self._similarity_fn_name = value

    @property
    def similarity(self) -> Any:
        """``similarity(a, b)``: that of every row of a [n, width] with every one of b [m, width], a tensor [n, m]."""
        return _theirs("util.similarity").SimilarityFunction.to_similarity_fn(self.similarity_fn_name)

    @property
    def similarity_pairwise(self) -> Any:
        """``similarity_pairwise(a, b)``: that of each row of a [n, width] with the same row of b, a tensor [n]."""
        return _theirs("util.similarity").SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)

    def close(self) -> None:
        """Free the model. Called by ``with``; calling it twice is fine."""
        self._encoder.runtime.close()

    @cached_property
    def _width(self) -> int:
        return int(self._encoder.embed([""]).shape[1])

    def _vectors(self, texts: list[str], show_progress: bool) -> Embeddings:
        if not texts:
            return np.zeros((0, self._width), np.float32)
        if not show_progress:
            return self._encoder.embed(texts)
        with ConsoleProgress() as progress:
            return self._encoder.embed(texts, progress)

    def _name(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that the model has a prompt for."""
        return next((name for name in names if name in self.prompts), None)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """What goes before each text. Raises ``ConfigError`` for an unknown name, and where pooling leaves it out."""
        if prompt is None:
            chosen = self.default_prompt_name if name is None else name
            if chosen is not None and chosen not in self.prompts:
                raise ConfigError(f"got prompt_name={chosen!r}, expected one of {', '.join(self.prompts)}.")
            prompt = "" if chosen is None else self.prompts[chosen]
        if not isinstance(prompt, str):
            raise ConfigError(f"got a prompt of type {type(prompt).__name__}, expected a text.")
        if prompt and not self._pools_prompts:
            raise ConfigError(
                f"got the prompt {prompt!r}, but the model's pooling leaves a prompt's tokens out of the vector "
                "(include_prompt), which calib8 does not. Call with prompt='' to go without."
            )
        return prompt

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Evaluations:
    """What evaluators of sentence-transformers found, which they write into the model card of a model."""

    def __init__(self) -> None:
        #: Metric -> value, of all evaluators that ran.
        self.metrics: dict[str, float] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, float], *_: Any) -> None:
        """Take what ``evaluator`` found."""
        self.metrics |= metrics


def _checked_dim(dim: int | None) -> int | None:
    if dim is not None and dim < 1:
        raise ConfigError(f"got truncate_dim={dim}, expected 1 or more dimensions, or None for all.")
    return dim


def _inputs(inputs: Any, others: dict[str, Any]) -> Any:
    """``inputs``, or what was given by its former name."""
    named = others.pop("sentences", None)
    if inputs is None and named is None:
        raise ConfigError("encode() got no text (None), expected a text or a list of texts as its first argument.")
    if inputs is not None and named is not None:
        raise ConfigError("encode() takes a text or a list of texts as its first argument, and no other `sentences`.")
    return named if inputs is None else inputs


def _texts(inputs: Any) -> list[str]:
    """The texts of ``encode``. Raises ``DataError`` for anything else."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs, (Mapping, bytes)) or not np.iterable(inputs):
        raise DataError(f"got inputs of type {type(inputs).__name__}, expected a text or a list of texts.")
    texts = list(inputs)
    if strange := [type(text).__name__ for text in texts if not isinstance(text, str)]:
        raise DataError(f"got an input of type {strange[0]}, expected texts.")
    return texts


def _refuse_others(options: dict[str, Any]) -> None:
    """What ``SentenceTransformer.encode`` takes and calib8 cannot do."""
    if given := [name for name, value in options.items() if value not in (None, "")]:
        raise ConfigError(f"encode() was called with {', '.join(given)}, which calib8 does not have. Leave it out.")


def _quantised(vectors: Embeddings, precision: str) -> Any:
    """Raises ``ConfigError`` where it cannot be done: one vector alone has no range for int8 or uint8."""
    try:
        return _theirs("util.quantization").quantize_embeddings(vectors, precision=precision)
    except ValueError as error:
        raise ConfigError(f"{len(vectors)} vectors cannot be made {precision}: {error}") from error


def _theirs(module: str) -> Any:
    """A module of sentence-transformers. Raises ``SetupError``."""
    try:
        return import_module(f"sentence_transformers.{module}")
    except ImportError as error:
        raise SetupError(
            "this needs sentence-transformers 6 itself, which is not installed. Install it: "
            f"{install('sentence-transformers')}."
        ) from error


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise SetupError("a tensor needs PyTorch, which is not installed. Leave convert_to_numpy=True.") from error
    return torch
