"""Text to arrays: read sentences, tokenise them."""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib8.data.reading import lines, name_of, opened, require_readable
from calib8.errors import DataError, InputError, ModelError
from calib8.files import read_bytes, read_json, sha256_file
from calib8.progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: What sentence-transformers writes about a model beside its modules.
SENTENCE_SETTINGS = "config_sentence_transformers.json"
#: Prompts that sentence-transformers gives every model, for the folder's own to replace.
NO_PROMPTS = {"query": "", "document": ""}
#: Tokens, where the tokenizer folder states no limit.
DEFAULT_MAX_LENGTH = 512
#: Tokens of a sentence with one word: its own, and one that begins and one that ends it.
SHORTEST = 3
#: What Python's strings may hold and UTF-8 may not.
HALF_PAIR = re.compile(r"[\ud800-\udfff]")


def read_sentences(path: Path) -> list[str]:
    """The non-blank lines of a UTF-8 text file, stripped: what a model is calibrated or judged by.

    An empty text says nothing of either. Raises ``DataError`` if there are none.
    """
    try:
        return sentences_of(read_bytes(path, "text file"), str(path))
    except InputError as error:
        raise DataError(str(error)) from None


def sentences_of(text: bytes, name: str) -> list[str]:
    """``read_sentences`` of UTF-8 ``text``; ``name`` says in errors where it came from."""
    if sentences := [line for line in lines(io.BytesIO(text), name) if line]:
        return sentences
    raise DataError(f"{name} holds no sentence; expected one a line.")


def text_lines(texts: Sequence[Path], note: Callable[[str], None] = lambda _: None) -> Iterator[str | None]:
    """Every line of files, pipes and ``-``, standard input, stripped, blank ones as empty texts, as they come.

    None where no more comes for a moment, see ``reading.lines``; ``note`` as in ``reading.opened``. Raises
    ``DataError`` if there is no line at all or one is no UTF-8, ``InputError`` for what cannot be read.
    """
    for path in texts:
        require_readable(path, "text file")
    found = False
    for path in texts:
        with opened(path, "text file", note) as stream:
            for line in lines(stream, name_of(path)):
                found = found or line is not None
                yield line
    if not found:
        raise DataError(f"{', '.join(map(name_of, texts))}: no line of text; expected one text a line.")


class TextTokenizer:
    """The model's own tokenizer (``tokenizer.json``), set to truncate and to pad as the model was trained.

    ``folder`` is laid out as sentence-transformers does: ``tokenizer.json``, and optionally
    ``tokenizer_config.json`` (padding token) and ``sentence_bert_config.json`` (``max_seq_length``,
    ``do_lower_case``). ``max_length`` cuts to fewer tokens than ``limit``, the model's own limit; it cannot raise it.
    ``prompt`` is put before every sentence; None takes the one by default of ``prompts_of``.
    """

    def __init__(self, folder: Path, max_length: int | None = None, prompt: str | None = None) -> None:
        from tokenizers import Tokenizer

        folder = Path(folder).parent if Path(folder).name == "tokenizer.json" else Path(folder)
        self.path = folder / "tokenizer.json"
        if not self.path.is_file():
            raise ModelError(f"no tokenizer: expected {self.path}. Name the folder that holds it with --tokenizer.")
        with _usable(self.path):
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(self.path))
        own = read_settings(Path(folder) / "sentence_bert_config.json", "tokenizer setting")
        settings = read_settings(Path(folder) / "tokenizer_config.json", "tokenizer setting") | own
        self.limit, self.asked = _limit(settings), max_length
        self.max_length = min(max_length or self.limit, self.limit)
        self.lower = own.get("do_lower_case") is True
        self.prompt = prompts_of(folder).default if prompt is None else prompt
        self.pad_id = _pad_id(self._tokenizer, settings)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    @property
    def sha256(self) -> str:
        """SHA-256 of ``tokenizer.json``."""
        return sha256_file(self.path)

    @cached_property
    def vocabulary(self) -> int:
        """One more than the largest token id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def tokens(self, sentences: Sequence[str], progress: Progress | None = None) -> list[list[int]]:
        """Token ids of each sentence, with the special tokens, cut to ``max_length``, with a note of how many were."""
        tokens, cut = self.encoded(sentences)
        if progress is not None:
            self.note_cut(cut, len(sentences), progress)
        return tokens

    def encoded(self, sentences: Sequence[str]) -> tuple[list[list[int]], int]:
        """``tokens``, and how many sentences were cut. Other threads run meanwhile. Raises as ``encoded_rows`` does."""
        tokens, cut = self.encoded_rows(sentences)
        return tokens, len(cut)

    def encoded_rows(self, sentences: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """``tokens``, and the numbers of the sentences that were cut.

        Raises ``ModelError`` where the tokenizer lacks what it refers to, ``DataError`` for half a surrogate pair.
        """
        texts = [self.prompt + sentence for sentence in sentences]
        if self.lower:
            texts = [text.lower() for text in texts]
        if (broken := next(filter(HALF_PAIR.search, texts), None)) is not None:
            raise DataError(f"{broken!r:.80} holds half of a surrogate pair, which no UTF-8 text does. Mend the text.")
        with _usable(self.path):
            encodings = self._tokenizer.encode_batch_fast(texts)  # without the offsets, which nobody reads
        cut = [row for row, encoding in enumerate(encodings) if encoding.overflowing]
        return [encoding.ids for encoding in encodings], cut

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, NDArray[np.generic]], int]:
        """Arrays of pairs of texts, as rerankers and classifiers take them, and how many were cut.

        ``token_type_ids`` [N, S] are among them where the tokenizer tells the two texts apart. Prompts are for single
        texts. Raises ``ModelError`` where the tokenizer lacks what it refers to.
        """
        lowered = [(first.lower(), second.lower()) for first, second in pairs] if self.lower else list(pairs)
        with _usable(self.path):
            encodings = self._tokenizer.encode_batch_fast(lowered)
        arrays = self.padded([encoding.ids for encoding in encodings])
        types = np.zeros_like(arrays["input_ids"])
        for row, encoding in enumerate(encodings):
            types[row, : len(encoding.type_ids)] = encoding.type_ids
        if types.any():
            arrays["token_type_ids"] = types
        return arrays, sum(bool(encoding.overflowing) for encoding in encodings)

    def decoded(self, tokens: Sequence[int]) -> str:
        """The text that ``tokens`` stand for, special tokens included."""
        with _usable(self.path):
            return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def note_cut(self, cut: int, count: int, progress: Progress) -> None:
        """Say that ``cut`` of ``count`` sentences were cut, if any were."""
        if cut:
            were = "is longer than {} tokens and was cut" if cut == 1 else "are longer than {} tokens and were cut"
            progress.note(f"{cut} of {count} sentences {were.format(self.max_length)}")

    def padded(self, tokens: Sequence[Sequence[int]], length: int | None = None) -> dict[str, NDArray[np.generic]]:
        """``input_ids`` and ``attention_mask``, int64 [len(tokens), length]; None is the length of the longest."""
        longest = length or max(map(len, tokens))
        ids = np.full((len(tokens), longest), self.pad_id, np.int64)
        mask = np.zeros((len(tokens), longest), np.int64)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = sentence
            mask[row, : len(sentence)] = 1
        return {"input_ids": ids, "attention_mask": mask}


@contextmanager
def _usable(tokenizer: Path) -> Iterator[None]:
    """The library raises bare Exceptions, and panics of Rust, which are no Exceptions."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{tokenizer} is not a usable tokenizer ({error}). Fetch it again.") from error


def _limit(settings: dict[str, Any]) -> int:
    """The model's own limit in tokens. Hugging Face writes 1e30 for "none". Raises ``ModelError`` if too small."""
    own = settings.get("max_seq_length") or settings.get("model_max_length")
    if isinstance(own, int) and own < SHORTEST:
        raise ModelError(f"the tokenizer's settings allow {own} tokens, expected at least {SHORTEST}. Fetch it again.")
    return own if isinstance(own, int) and own < 1_000_000 else DEFAULT_MAX_LENGTH


def _pad_id(tokenizer: "Tokenizer", settings: dict[str, Any]) -> int:
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    token = settings.get("pad_token", "<pad>")
    name = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(str(name)) or 0


@dataclass(frozen=True)
class Prompts:
    """What a model has to be put before texts, by name. ``default_name`` is that of the one before every text."""

    named: dict[str, str]
    default_name: str | None = None

    @property
    def default(self) -> str:
        """The prompt before every text for which none is asked, empty for none."""
        return "" if self.default_name is None else self.named[self.default_name]


def prompts_of(folder: Path) -> Prompts:
    """The prompts in the folder's sentence-transformers settings, as sentence-transformers 6 reads them.

    Raises ``ModelError`` for damaged ones.
    """
    path = Path(folder) / SENTENCE_SETTINGS
    settings = read_settings(path, "sentence-transformers setting")
    given, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(given, dict):
        raise ModelError(f"{path}: its prompts are of type {type(given).__name__}, expected an object. Fetch it again.")
    named = NO_PROMPTS | {name: "" if prompt is None else prompt for name, prompt in given.items()}
    if strange := [name for name, prompt in named.items() if not isinstance(prompt, str)]:
        raise ModelError(f"{path}: its prompt {strange[0]!r} is no text. Fetch it again.")
    if default is not None and (not isinstance(default, str) or default not in named):
        raise ModelError(f"{path}: default_prompt_name is {default!r}, expected one of {', '.join(named)}, or null.")
    return Prompts(named, default)


def read_settings(path: Path, what: str) -> dict[str, Any]:
    """A JSON object of settings, empty if there is no such file; ``what`` is its role. Raises ``ModelError``."""
    try:
        content = read_json(path, what) if path.is_file() else {}
    except InputError as error:
        raise ModelError(str(error)) from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a {what}: it holds a {type(content).__name__}, expected an object.")
    return content
