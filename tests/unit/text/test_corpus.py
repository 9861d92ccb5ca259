"""Corpora in parts."""

import json
from pathlib import Path

import pytest

from calib8.errors import DataError, InputError
from calib8.text.corpus import Part, parts, read

TEXTS = ["eins", "zwei", "drei", "vier", "fünf"]


def write(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".txt":
        path.write_text("\ufeff" + "\r\n".join(texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"n": 1, "text": text}) + "\n" for text in texts), encoding="utf-8")
    else:
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[ray]'")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"n": range(len(texts)), "text": texts}), path, row_group_size=2)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_parts_hold_every_row_once_and_in_order(tmp_path: Path, suffix: str, rows: int) -> None:
    found = parts([write(tmp_path / f"a{suffix}", TEXTS), write(tmp_path / f"b{suffix}", ["sechs"])], rows, "text")
    assert [text for part in found for text in read(part, "text")] == [*TEXTS, "sechs"]
    assert [row for part in found for row in range(part.first, part.first + part.rows)] == list(range(6))
    assert max(part.rows for part in found) == min(rows, 5)


def test_a_part_of_text_begins_at_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("ä\n\nb\nc\n".encode())
    found = parts([path], 2, "text")
    assert found == [Part(str(path), 0, 2, 0), Part(str(path), 4, 2, 2)]
    assert [read(part, "text") for part in found] == [["ä", ""], ["b", "c"]]  # a blank line is an empty text


def test_blank_lines_between_those_of_json_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "b"}\n\n{"text": ""}\n')
    [part] = parts([path], 9, "text")
    assert read(part, "text") == ["b", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": 3}', "'text' of the line .* is 3, expected a text. Mend or remove the line"),
        ("a.jsonl", '{"body": "x"}', "has no 'text'. Name the member with --column"),
        ("a.jsonl", "{", "is not JSON lines"),
        ("a.txt", "", "holds no row"),
        ("a.csv", "x", "has the suffix '.csv', expected one of .parquet"),
        ("a.parquet", "x", "is not a Parquet file"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[ray]'")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        parts([tmp_path / name], 4, "text")


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", TEXTS)
    with pytest.raises(DataError, match="has no column 'body'; it has n, text"):
        parts([path], 9, "body")
    with pytest.raises(DataError, match="'n' of row 0, the first being 0, is 0, expected a text. Mend or"):
        parts([path], 9, "n")


def test_a_file_that_lost_rows_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    [part] = parts([path], 9, "text")
    write(path, TEXTS[:3])
    with pytest.raises(DataError, match="changed while it was read: 3 rows where 5 were"):
        read(part, "text")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="corpus not found"):
        parts([tmp_path / "a.txt"], 1, "text")
    for suffix in ("txt", "jsonl", "parquet"):  # as on a node without that folder
        with pytest.raises(InputError, match=f"corpus not found: expected a file at .*a.{suffix}, found nothing"):
            read(Part(str(tmp_path / f"a.{suffix}"), 0, 1, 0), "text")
