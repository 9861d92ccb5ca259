import json
from pathlib import Path

import numpy as np
import pytest

from calib8.errors import DataError, ModelError
from calib8.files import sha256_file
from calib8.text.prepare import write_arrays
from calib8.text.tokenizer import TextTokenizer, read_sentences


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (b" a b \n\n\t\nc", ["a b", "c"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        ("\ufeffa\u2028b\x85c\nd".encode(), ["a\u2028b\x85c", "d"]),  # only line feeds separate
    ],
)
def test_sentences(tmp_path: Path, content: bytes, sentences: list[str]) -> None:
    assert read_sentences(write(tmp_path / "a.txt", content)) == sentences


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.txt holds no sentence; expected one a line"),
        (b" \n\n", r"a\.txt holds no sentence"),
        (b"caf\xe9", r"a\.txt is not UTF-8 text: line 1 .*iconv"),
    ],
)
def test_unusable_text(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_sentences(write(tmp_path / "a.txt", content))


def test_missing_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text file not found: expected a file at .*a\.txt"):
        read_sentences(tmp_path / "a.txt")


def test_tokens_and_padding(tokenizer_folder: Path) -> None:
    tokenizer = TextTokenizer(tokenizer_folder)
    tokens = tokenizer.tokens(["a b", "zebra"])
    assert tokens == [[1, 4, 5, 2], [1, 3, 2]]
    arrays = tokenizer.padded(tokens)
    assert arrays["input_ids"].tolist() == [[1, 4, 5, 2], [1, 3, 2, 0]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("settings", "asked", "length"),
    [
        ({}, None, 512),
        ({"sentence_bert_config.json": {"max_seq_length": 8}}, None, 8),
        ({"sentence_bert_config.json": {"max_seq_length": 8}}, 5, 5),
        ({"sentence_bert_config.json": {"max_seq_length": 8}}, 9, 8),  # never beyond the model's own limit
        ({"tokenizer_config.json": {"model_max_length": 6}}, None, 6),
        ({"tokenizer_config.json": {"model_max_length": int(1e30)}}, None, 512),  # Hugging Face's "none"
    ],
)
def test_max_length(tokenizer_folder: Path, settings: dict[str, dict], asked: int | None, length: int) -> None:
    for name, content in settings.items():
        (tokenizer_folder / name).write_text(json.dumps(content))
    tokenizer = TextTokenizer(tokenizer_folder, asked)
    assert tokenizer.max_length == length
    assert len(tokenizer.tokens(["a " * 600])[0]) == length


@pytest.mark.parametrize(("token", "number"), [("b", 5), ({"content": "c"}, 6), ("unheard of", 0)])
def test_padding_token_comes_from_the_config(tokenizer_folder: Path, token: object, number: int) -> None:
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": token}))
    assert TextTokenizer(tokenizer_folder).pad_id == number


@pytest.mark.parametrize("name", ["tokenizer_config.json", "sentence_bert_config.json"])
def test_damaged_settings(tokenizer_folder: Path, name: str) -> None:
    (tokenizer_folder / name).write_text("{")
    with pytest.raises(ModelError, match=rf"{name} is not a tokenizer setting: it is no valid JSON"):
        TextTokenizer(tokenizer_folder)


def test_missing_or_damaged_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer: expected .*tokenizer\.json.*--tokenizer"):
        TextTokenizer(tmp_path)
    write(tmp_path / "tokenizer.json", b'{"half": ')
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a usable tokenizer .* Fetch it again"):
        TextTokenizer(tmp_path)


def test_prepare_writes_arrays_and_what_they_were_made_from(tokenizer_folder: Path, tmp_path: Path, notes) -> None:
    text = write(tmp_path / "a.txt", b"a b c d e\nb\n")
    tokenizer = TextTokenizer(tokenizer_folder, 4)
    folder = write_arrays([text], tokenizer, tmp_path / "calib", notes)
    # <s> a b </s> is cut to 4 tokens; <s> b </s> has 3
    assert np.load(folder / "input_ids.npy").tolist() == [[1, 4, 5, 2], [1, 5, 2, 0]]
    assert np.load(folder / "attention_mask.npy").tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert json.loads((folder / "calib_data.json").read_text()) == {
        "format": "calib8.data/1",
        "texts": {str(text): sha256_file(text)},
        "tokenizer_sha256": sha256_file(tokenizer_folder / "tokenizer.json"),
        "max_length": 4,
        "prompt": "",
        "sentences": 2,
        "tokens": 7,
    }
    assert notes.messages == ["1 of 2 sentences is longer than 4 tokens and was cut"]
    assert notes.steps[-1] == ("tokenise", 2, 2)


def test_texts_of_one_name_are_told_apart(tokenizer_folder: Path, tmp_path: Path, notes) -> None:
    texts = [write(tmp_path / name / "a.txt", name.encode()) for name in "ab"]
    folder = write_arrays(texts, TextTokenizer(tokenizer_folder), tmp_path / "calib", notes)
    made_of = json.loads((folder / "calib_data.json").read_text())["texts"]
    assert made_of == {str(text): sha256_file(text) for text in texts}


def test_a_maximum_beyond_the_models_limit_is_told(tokenizer_folder: Path, tmp_path: Path, notes) -> None:
    (tokenizer_folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    text = write(tmp_path / "a.txt", b"a\n")
    write_arrays([text], TextTokenizer(tokenizer_folder, 8), tmp_path / "calib", notes)
    assert notes.messages == []
    write_arrays([text], TextTokenizer(tokenizer_folder, 9), tmp_path / "calib", notes)
    assert notes.messages == ["the model takes 8 tokens: that, not 9, is the maximum length"]


def test_sentences_are_tokenised_once(tokenizer_folder: Path, tmp_path: Path, notes) -> None:
    tokenizer = TextTokenizer(tokenizer_folder)
    calls = []

    class Counting:
        def encode_batch_fast(self, texts: list[str]) -> object:
            calls.append(len(texts))
            return inner.encode_batch_fast(texts)

    inner, tokenizer._tokenizer = tokenizer._tokenizer, Counting()
    write_arrays([write(tmp_path / "a.txt", b"a\nb\n")], tokenizer, tmp_path / "calib", notes)
    assert calls == [2]


def test_lower_case_is_asked_for_by_the_model(tokenizer_folder: Path) -> None:
    assert TextTokenizer(tokenizer_folder).tokens(["A"]) == [[1, 3, 2]]  # unknown
    (tokenizer_folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert TextTokenizer(tokenizer_folder).tokens(["A"]) == [[1, 4, 2]]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize(
    ("content", "message"), [(b"[]", "it holds a list, expected an object"), (b'"\xff"', "it is no valid JSON")]
)
def test_settings_of_another_kind(tokenizer_folder: Path, name: str, content: bytes, message: str) -> None:
    write(tokenizer_folder / name, content)
    with pytest.raises(ModelError, match=rf"{name} is not a tokenizer setting: {message}"):
        TextTokenizer(tokenizer_folder)


def test_the_prompt_by_default_goes_before_every_sentence(tokenizer_folder: Path, tmp_path: Path, notes) -> None:
    settings = tokenizer_folder / "config_sentence_transformers.json"
    settings.write_text('{"prompts": {"query": "A ", "long": "b "}, "default_prompt_name": "query"}')
    (tokenizer_folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert TextTokenizer(tokenizer_folder).tokens(["b", ""]) == [[1, 4, 5, 2], [1, 4, 2]]  # lower case, as texts are
    assert TextTokenizer(tokenizer_folder, 3).encoded(["b"]) == ([[1, 4, 2]], 1)  # it counts
    assert TextTokenizer(tokenizer_folder, prompt="").tokens(["b"]) == [[1, 5, 2]]
    made = write_arrays([write(tmp_path / "a.txt", b"b")], TextTokenizer(tokenizer_folder), tmp_path / "calib", notes)
    assert np.load(made / "input_ids.npy").tolist() == [[1, 4, 5, 2]]
    assert json.loads((made / "calib_data.json").read_text())["prompt"] == "A "
    settings.write_text('{"prompts": {"query": "a "}, "default_prompt_name": null}')
    assert TextTokenizer(tokenizer_folder).tokens(["b"]) == [[1, 5, 2]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"prompts": ["a "]}, "its prompts are of type list, expected an object"),
        ({"prompts": {"query": 7}}, "its prompt 'query' is no text"),
        ({"default_prompt_name": "passage"}, "default_prompt_name is 'passage', expected one of query, document, or"),
        ({"default_prompt_name": ["query"]}, r"default_prompt_name is \['query'\], expected one of"),
        ([], "is not a sentence-transformers setting: it holds a list"),
    ],
)
def test_damaged_prompts(tokenizer_folder: Path, content: object, told: str) -> None:
    (tokenizer_folder / "config_sentence_transformers.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=told):
        TextTokenizer(tokenizer_folder)
