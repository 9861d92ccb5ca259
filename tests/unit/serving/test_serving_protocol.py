"""What reading a request costs, without a server around it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, processors

from calib8.serving.config import Serve
from calib8.serving.protocol import PIECE, Asked, Protocol, Smaller
from calib8.serving.refused import Refused
from calib8.text.tokenizer import TextTokenizer

Read = Callable[..., list[list[int]]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were given to the tokenizer, each time."""
    counts: list[int] = []
    original = TextTokenizer.encoded_rows

    def counted(self: TextTokenizer, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        counts.append(len(texts))
        return original(self, texts)

    monkeypatch.setattr(TextTokenizer, "encoded_rows", counted)
    return counts


@pytest.fixture
def read(tokenizer_folder: Path) -> Read:
    def tokens(given: object, **limits: int) -> list[list[int]]:
        encoder = SimpleNamespace(tokenizer=TextTokenizer(tokenizer_folder, 16), normalise=True)
        protocol = Protocol(encoder, 8, "tiny", Smaller(), Serve(**limits))  # type: ignore[arg-type]
        return protocol.read(json.dumps({"model": "tiny", "input": given}).encode())[1]

    return tokens


@pytest.mark.parametrize("item", ["{}", "0.5", "null", "[{}]", '["a"]'])
def test_a_body_of_wrong_elements_gives_few_errors(item: str) -> None:
    body = f'{{"model": "tiny", "input": [{",".join([item] * 5000)}]}}'
    with pytest.raises(ValidationError) as refused:
        Asked.model_validate_json(body)
    assert refused.value.error_count() <= 4  # one for each form that input may have


def test_a_body_of_unknown_fields_gives_no_error_for_each() -> None:
    body = {"model": "tiny", "input": "a"} | {f"x{number}": 1 for number in range(5000)}
    assert len(Asked.model_validate_json(json.dumps(body)).model_extra or ()) == 5000  # the first is refused: one error


def test_a_text_that_is_too_long_is_tokenised_once(read: Read, seen: list[int]) -> None:
    with pytest.raises(Refused, match=r"input 2 is longer than this model's maximum of 16 tokens"):
        read(["a", "b", "c " * 20, "d " * 20])
    assert seen == [4]


def test_a_refused_request_is_tokenised_no_further(read: Read, seen: list[int]) -> None:
    with pytest.raises(Refused, match=r"input 1 is longer than this model's maximum of 16 tokens"):
        read(["a", "b" + " " * PIECE + "b " * 20, "a"])
    assert seen == [2]
    with pytest.raises(Refused, match=r"got 9 tokens in 3 inputs, expected at most 8 in one request"):
        read(["a", "b", " " * PIECE + "c", "d"], max_tokens=8)
    assert seen == [2, 3]


def test_pieces_are_all_of_it(read: Read, seen: list[int]) -> None:
    filler = " " * (PIECE // 2)
    assert read([filler + word for word in "abcde"]) == [[1, 4 + number, 2] for number in range(5)]
    assert seen == [2, 2, 1]


def test_a_text_without_tokens_is_refused(read: Read, tokenizer_folder: Path) -> None:
    path = str(tokenizer_folder / "tokenizer.json")
    plain = Tokenizer.from_file(path)
    plain.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    plain.save(path)
    with pytest.raises(Refused, match=r"input 1 is no token to this model's tokenizer; expected at least one each"):
        read(["a", " "])
    assert read("a") == [[4]]
