"""Corpora in Parquet, JSON lines or text, in parts that anybody finds again: by file, place and number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from calib8.errors import DataError
from calib8.files import reading, require_file

PARQUET, JSON_LINES, TEXT = (".parquet", ".pq"), (".jsonl", ".ndjson"), (".txt",)


@dataclass(frozen=True)
class Part:
    """``rows`` rows of the file ``path``.

    begin: the byte at which they begin, in a Parquet file the row. first: what the first is in the whole corpus.
    """

    path: str
    begin: int
    rows: int
    first: int


def parts(paths: Sequence[Path], rows: int, column: str) -> list[Part]:
    """The corpus in parts of at most ``rows`` rows of one file. Every line of text is a row, if a blank one is empty.

    Blank lines between those of JSON are none.

    Every row is looked at, so that no part is made of a corpus that has to be mended. Raises ``DataError`` for a file
    that is no corpus or has no row, and for a row without a text, ``InputError`` for a file that is not there.
    """
    found: list[Part] = []
    first = 0
    for path in paths:
        begins, total = _begins(require_file(path, "corpus"), rows, column)
        if total == 0:
            raise DataError(f"{path} holds no row; expected at least one.")
        for place, begin in enumerate(begins):
            found.append(Part(str(path), begin, min(rows, total - place * rows), first + place * rows))
        first += total
    return found


def read(part: Part, column: str) -> list[str]:
    """The texts of ``part``, [part.rows]; ``column`` is where they are in Parquet and JSON lines.

    Raises ``DataError`` if one is missing or no text, ``InputError`` for a file that is not there.
    """
    path = require_file(Path(part.path), "corpus")
    if path.suffix in PARQUET:
        texts = _parquet_rows(path, part, column)
    else:
        lines = (line for _, line in islice(_lines(path, part.begin), part.rows))
        texts = list(lines) if path.suffix in TEXT else [_member(path, line, column) for line in lines]
    if len(texts) != part.rows:
        raise DataError(f"{path} changed while it was read: {len(texts)} rows where {part.rows} were. Run it again.")
    return texts


def _begins(path: Path, rows: int, column: str) -> tuple[list[int], int]:
    """Where every part begins, and how many rows there are."""
    if path.suffix in PARQUET:
        total = _checked_rows(path, column)
        return list(range(0, total, rows)), total
    if path.suffix not in JSON_LINES + TEXT:
        known = ", ".join(PARQUET + JSON_LINES + TEXT)
        raise DataError(f"{path} has the suffix {path.suffix!r}, expected one of {known}. Rename or convert it.")
    begins, total = [], 0
    for begin, line in _lines(path):
        if path.suffix in JSON_LINES:
            _member(path, line, column)
        if total % rows == 0:
            begins.append(begin)
        total += 1
    return begins, total


def _lines(path: Path, begin: int = 0) -> Iterator[tuple[int, str]]:
    """(the byte at which it begins, the line, stripped) for every row."""
    with reading(path), path.open("rb") as stream:
        stream.seek(begin)
        for line in stream:
            try:
                text = line.decode("utf-8" if begin else "utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is not UTF-8 text ({error}). Convert it, e.g. with iconv.") from None
            if text or path.suffix in TEXT:
                yield begin, text
            begin += len(line)


def _member(path: Path, line: str, column: str) -> str:
    try:
        content = from_json(line)
    except ValueError as error:
        raise DataError(f"{path} is not JSON lines: {line[:80]!r} is no JSON ({error}). Make it again.") from None
    if not isinstance(content, dict) or column not in content:
        raise DataError(f"{path}: the line {line[:80]!r} has no {column!r}. Name the member with --column.")
    text = content[column]
    if not isinstance(text, str):
        raise DataError(
            f"{path}: {column!r} of the line {line[:80]!r} is {text!r:.80}, expected a text. Mend or remove the line, "
            "or name another --column."
        )
    return text


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except Exception as error:  # of pyarrow's many kinds
        raise DataError(f"{path} is not a Parquet file ({error}). Make it again.") from None


def _checked_rows(path: Path, column: str) -> int:
    """How many rows the file has. Raises ``DataError`` unless all of them have a text."""
    with _readable(path, column) as file:
        first = 0
        for batch in file.iter_batches(columns=[column]):
            _texts(path, column, batch.column(0).to_pylist(), first)
            first += len(batch)
        return int(file.metadata.num_rows)


def _parquet_rows(path: Path, part: Part, column: str) -> list[str]:
    with _readable(path, column) as file:
        return _texts(path, column, _rows(file, part, column), part.begin)


def _texts(path: Path, column: str, values: list[Any], first: int) -> list[str]:
    """``values``, the rows from ``first`` on. Raises ``DataError`` unless all are texts."""
    for row, value in enumerate(values, start=first):
        if not isinstance(value, str):
            raise DataError(
                f"{path}: {column!r} of row {row}, the first being 0, is {value!r:.80}, expected a text. Mend or "
                "remove the row, or name another --column."
            )
    return values


@contextmanager
def _readable(path: Path, column: str) -> Iterator[Any]:
    """The Parquet file. What fails in the body, other than by our own errors, is its damage."""
    file = _parquet(path)
    if column not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise DataError(f"{path} has no column {column!r}; it has {names}. Name one with --column.")
    try:
        yield file
    except DataError:
        raise
    except Exception as error:  # of pyarrow's many kinds, also where a text is not UTF-8
        raise DataError(f"{path} is damaged: column {column!r} cannot be read ({error}). Make it again.") from error


def _rows(file: Any, part: Part, column: str) -> list[Any]:
    """Read group by group, a batch at a time."""
    group, skipped = 0, part.begin
    while skipped >= (size := file.metadata.row_group(group).num_rows):
        group, skipped = group + 1, skipped - size
    groups = list(range(group, file.metadata.num_row_groups))
    batches = file.iter_batches(batch_size=part.rows, row_groups=groups, columns=[column])
    texts: list[Any] = []
    for batch in batches:
        if skipped < len(batch):
            texts += batch.column(0).slice(skipped, part.rows - len(texts)).to_pylist()
        skipped = max(0, skipped - len(batch))
        if len(texts) == part.rows:
            break
    return texts
