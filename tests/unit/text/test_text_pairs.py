"""Pairs of texts, as rerankers and classifiers take them."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import calib8
from calib8.errors import DataError


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Words, put together as BERT does: [CLS] first [SEP] second [SEP]."""
    words = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "cats", "sleep", "yes"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return tmp_path


def prepared(tokenizer: Path, name: str, text: str, **options: int) -> dict[str, list]:
    (tokenizer / name).write_text(text, encoding="utf-8")
    out = calib8.prepare([tokenizer / name], tokenizer, tokenizer / "out", calib8.Prepare(**options))
    return {path.stem: np.load(path).tolist() for path in out.glob("*.npy")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'query,passage,label\ncats sleep,"yes, yes",1\ncats,sleep,0\n'),
        ("a.tsv", "cats sleep\tyes, yes\ncats\tsleep\n\n"),
    ],
)
def test_two_columns_are_a_pair(tokenizer: Path, name: str, text: str) -> None:
    assert prepared(tokenizer, name, text) == {
        "input_ids": [[1, 4, 5, 2, 3, 6, 2], [1, 4, 2, 5, 2, 0, 0]],
        "attention_mask": [[1] * 7, [1, 1, 1, 1, 1, 0, 0]],
        "token_type_ids": [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]],
    }
    assert json.loads((tokenizer / "out" / "calib_data.json").read_text())["pairs"] == 2


def test_long_pairs_are_cut_and_the_first_is_shown(tokenizer: Path, notes) -> None:
    (tokenizer / "a.csv").write_text("cats cats cats sleep,yes yes\nyes,yes\n")
    calib8.prepare([tokenizer / "a.csv"], tokenizer, tokenizer / "o", calib8.Prepare(max_length=6), progress=notes)
    assert np.load(tokenizer / "o" / "input_ids.npy").shape == (2, 6)
    assert notes.messages[0] == "1 of 2 pairs are longer than 6 tokens and were cut"
    assert notes.messages[1].startswith("the first pair, as the model reads it: [CLS] cats")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "query,passage\n", "no pair of texts; expected two columns"),
        ("a.csv", "cats,sleep\ncats\n", "row 2 has one column, expected a pair of texts in two"),
        ("a.csv", "cats,caf\udce9", "is no table of texts"),
    ],
)
def test_tables_that_are_none(tokenizer: Path, name: str, text: str, message: str) -> None:
    (tokenizer / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        calib8.prepare([tokenizer / name], tokenizer, tokenizer / "out")


def test_pairs_and_single_texts_do_not_mix(tokenizer: Path) -> None:
    for name in ("a.csv", "a.txt"):
        (tokenizer / name).write_text("cats,sleep")
    with pytest.raises(DataError, match="expected files of one kind"):
        calib8.prepare([tokenizer / "a.csv", tokenizer / "a.txt"], tokenizer, tokenizer / "out")
