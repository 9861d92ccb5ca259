"""Text to arrays: read sentences, tokenise them, write the familiar calibration folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from calib8.config import Config
from calib8.errors import DataError, InputError, ModelError
from calib8.files import read_json, require_file, save_array, sha256_file, write_json
from calib8.progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PREPARED_BY = "calib_data.json"
#: Tokens, where the tokenizer folder states no limit.
DEFAULT_MAX_LENGTH = 512


class Prepare(Config):
    """Options of ``prepare``. ``max_length`` counts tokens; None takes the model's own limit."""

    max_length: int | None = Field(default=None, ge=3)


def read_sentences(path: Path) -> list[str]:
    """The non-blank lines of a UTF-8 text file, stripped. Raises ``DataError`` if there are none."""
    try:
        return sentences_of(require_file(path, "text file").read_bytes(), str(path))
    except InputError as error:
        raise DataError(str(error)) from None


def sentences_of(text: bytes, name: str) -> list[str]:
    """The non-blank lines of UTF-8 ``text``, stripped; ``name`` says in errors where it came from."""
    try:
        # utf-8-sig drops the byte order mark of Windows; splitlines() would also cut at U+2028 and others.
        lines = [line.strip() for line in text.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error}). Convert it, e.g. with iconv.") from None
    if sentences := [line for line in lines if line]:
        return sentences
    raise DataError(f"{name} holds no sentence; expected one a line.")


class TextTokenizer:
    """The model's own tokenizer (``tokenizer.json``), set to truncate and to pad as the model was trained.

    ``folder`` is laid out as sentence-transformers does: ``tokenizer.json``, and optionally
    ``tokenizer_config.json`` (padding token) and ``sentence_bert_config.json`` (``max_seq_length``).
    """

    def __init__(self, folder: Path, max_length: int | None = None) -> None:
        from tokenizers import Tokenizer

        self.path = Path(folder) / "tokenizer.json"
        if not self.path.is_file():
            raise ModelError(f"no tokenizer: expected {self.path}. Name the folder that holds it with --tokenizer.")
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises bare Exceptions
            raise ModelError(f"{self.path} is not a usable tokenizer ({error}). Fetch it again.") from error
        settings = _json(Path(folder) / "tokenizer_config.json") | _json(Path(folder) / "sentence_bert_config.json")
        self.max_length = _max_length(settings, max_length)
        self.pad_id = _pad_id(self._tokenizer, settings)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

    @property
    def sha256(self) -> str:
        """SHA-256 of ``tokenizer.json``."""
        return sha256_file(self.path)

    def tokens(self, sentences: Sequence[str]) -> list[list[int]]:
        """Token ids of each sentence, with the special tokens, truncated to ``max_length``."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(sentences))]

    def truncated(self, sentences: Sequence[str]) -> int:
        """How many of ``sentences`` are longer than ``max_length``."""
        return sum(bool(e.overflowing) for e in self._tokenizer.encode_batch(list(sentences)))

    def padded(self, tokens: Sequence[Sequence[int]]) -> dict[str, NDArray[np.generic]]:
        """``input_ids`` and ``attention_mask``, int64 [len(tokens), longest]."""
        longest = max(map(len, tokens))
        ids = np.full((len(tokens), longest), self.pad_id, np.int64)
        mask = np.zeros((len(tokens), longest), np.int64)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = sentence
            mask[row, : len(sentence)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def prepare(texts: Sequence[Path], tokenizer: TextTokenizer, output: Path, progress: Progress) -> Path:
    """Write ``input_ids.npy`` and ``attention_mask.npy`` ([N, S], int64) and what they were made from to ``output``."""
    sentences = [sentence for path in texts for sentence in read_sentences(path)]
    progress.update("tokenise", 0, len(sentences))
    if cut := tokenizer.truncated(sentences):
        progress.note(f"{cut} of {len(sentences)} sentences are longer than {tokenizer.max_length} tokens and were cut")
    arrays = tokenizer.padded(tokenizer.tokens(sentences))
    for name, array in arrays.items():
        save_array(Path(output) / f"{name}.npy", array)
    made_of = {
        "texts": {path.name: sha256_file(path) for path in texts},
        "tokenizer_sha256": tokenizer.sha256,
        "max_length": tokenizer.max_length,
        "sentences": len(sentences),
        "tokens": int(arrays["attention_mask"].sum()),
    }
    write_json(Path(output) / PREPARED_BY, made_of)
    progress.update("tokenise", len(sentences), len(sentences))
    return Path(output)


def _max_length(settings: dict[str, object], asked: int | None) -> int:
    """The model's own limit in tokens, or what was asked for if that is less. Hugging Face writes 1e30 for "none"."""
    own = settings.get("max_seq_length") or settings.get("model_max_length")
    limit = own if isinstance(own, int) and own < 1_000_000 else DEFAULT_MAX_LENGTH
    return min(asked or limit, limit)


def _pad_id(tokenizer: "Tokenizer", settings: dict[str, object]) -> int:
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    token = settings.get("pad_token", "<pad>")
    name = token.get("content") if isinstance(token, dict) else token
    return tokenizer.token_to_id(str(name)) or 0


def _json(path: Path) -> dict[str, object]:
    try:
        content = read_json(path, "tokenizer setting") if path.is_file() else {}
    except InputError as error:
        raise ModelError(str(error)) from None
    return content if isinstance(content, dict) else {}
