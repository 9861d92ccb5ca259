"""Text to the familiar calibration folder."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from calib8.config import Config
from calib8.data.array_files import save_array
from calib8.data.reading import read_whole
from calib8.errors import DataError
from calib8.files import require_folder, write_json
from calib8.progress import Progress, Quiet
from calib8.text.tokenizer import SHORTEST, TextTokenizer, sentences_of

PREPARED_BY = "calib_data.json"
#: Of tables of pairs, by the end of the name.
SEPARATORS = {".csv": ",", ".tsv": "\t"}
#: What a first row that names columns begins with.
HEADS = ("sentence1", "query", "question", "text")


class Prepare(Config):
    """How text becomes tokens."""

    max_length: int | None = Field(default=None, ge=SHORTEST)
    """Cut sentences to this many tokens.

    None takes the model's own limit.
    """


def prepare(
    texts: Sequence[Path | str],
    tokenizer: Path | str,
    output: Path | str,
    config: Prepare | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Tokenise text files (one sentence a line) into a calibration folder of int64 arrays [N, S].

    Of ``.csv`` and ``.tsv`` files the first two columns are pairs of texts, for rerankers and classifiers; a head of
    column names counts as none where it reads ``sentence1``, ``query``, ``question`` or ``text``. All files are of one
    kind.

    Example:

        >>> folder = calib8.prepare(["calibration.txt"], "models", "texts", calib8.Prepare(max_length=128))
        >>> sorted(path.name for path in folder.glob("*.npy"))
        ['attention_mask.npy', 'input_ids.npy']
    """
    require_folder(output)
    own = TextTokenizer(Path(tokenizer), Prepare.of(config).max_length)
    paired = [Path(text).suffix in SEPARATORS for text in texts]
    if any(paired) and not all(paired):
        raise DataError("got pairs of texts (.csv, .tsv) and single texts; expected files of one kind.")
    if any(paired):
        return write_pairs([Path(text) for text in texts], own, Path(output), progress or Quiet())
    return write_arrays([Path(text) for text in texts], own, Path(output), progress or Quiet())


def write_pairs(texts: Sequence[Path], tokenizer: TextTokenizer, output: Path, progress: Progress) -> Path:
    """As ``write_arrays``, of pairs."""
    contents = {str(path): read_whole(path, "table of texts", progress.note) for path in texts}
    pairs = [pair for name, content in contents.items() for pair in _pairs_of(content, name)]
    progress.update("tokenise", 0, len(pairs))
    arrays, cut = tokenizer.pairs(pairs)
    if cut:
        progress.note(f"{cut} of {len(pairs)} pairs are longer than {tokenizer.max_length} tokens and were cut")
    first = tokenizer.decoded(arrays["input_ids"][0][arrays["attention_mask"][0] != 0].tolist())
    progress.note(f"the first pair, as the model reads it: {first}")
    _write(arrays, contents, tokenizer, output, pairs=len(pairs))
    progress.update("tokenise", len(pairs), len(pairs))
    return Path(output)


def _pairs_of(content: bytes, name: str) -> list[tuple[str, str]]:
    """The first two columns. Raises ``DataError``."""
    try:
        text = content.decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=SEPARATORS[Path(name).suffix]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is no table of texts ({error}). Save it as CSV in UTF-8.") from error
    rows = [row for row in rows if any(row)]
    rows = rows[1:] if rows and rows[0][0].strip().lower() in HEADS else rows
    if not rows:
        raise DataError(f"{name}: no pair of texts; expected two columns.")
    if (short := next((number for number, row in enumerate(rows, start=1) if len(row) < 2), None)) is not None:
        raise DataError(f"{name}: row {short} has one column, expected a pair of texts in two.")
    return [(row[0], row[1]) for row in rows]


def write_arrays(texts: Sequence[Path], tokenizer: TextTokenizer, output: Path, progress: Progress) -> Path:
    """Write ``input_ids.npy`` and ``attention_mask.npy`` ([N, S], int64) and what they were made from to ``output``."""
    contents = {str(path): read_whole(path, "text file", progress.note) for path in texts}  # once: it may be a pipe
    sentences = [sentence for name in map(str, texts) for sentence in sentences_of(contents[name], name)]
    progress.update("tokenise", 0, len(sentences))
    if tokenizer.asked is not None and tokenizer.asked > tokenizer.limit:
        progress.note(f"the model takes {tokenizer.limit} tokens: that, not {tokenizer.asked}, is the maximum length")
    arrays = tokenizer.padded(tokenizer.tokens(sentences, progress))
    _write(arrays, contents, tokenizer, output, sentences=len(sentences))
    progress.update("tokenise", len(sentences), len(sentences))
    return Path(output)


def _write(
    arrays: Mapping[str, NDArray[np.generic]],
    contents: Mapping[str, bytes],
    tokenizer: TextTokenizer,
    output: Path,
    **counts: int,
) -> None:
    for name, array in arrays.items():
        save_array(Path(output) / f"{name}.npy", array)
    made_of = {
        "format": "calib8.data/1",
        "texts": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "tokenizer_sha256": tokenizer.sha256,
        "max_length": tokenizer.max_length,
        "prompt": tokenizer.prompt,
        **counts,
        "tokens": int(arrays["attention_mask"].sum()),
    }
    write_json(Path(output) / PREPARED_BY, made_of)
