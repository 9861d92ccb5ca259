"""Requests and answers of OpenAI's ``/v1/embeddings``, checked against the model before anything is computed.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from pydantic_core import to_json

from calib8.errors import ModelError
from calib8.serving.config import Serve
from calib8.serving.refused import Refused
from calib8.text.sentence import Embeddings, SentenceEncoder, unit_rows
from calib8.text.tokenizer import read_settings

#: Characters of texts that are tokenised together: then the tokenizer's threads are free again for small requests, and
#: the next piece is left out where this one says already that the request is refused.
PIECE = 65_536

T = TypeVar("T")
#: Refused at the first wrong element: pydantic would keep an error for each, gigabytes for a body full of them.
Each: TypeAlias = Annotated[list[T], Field(fail_fast=True)]


class Asked(BaseModel):
    """The body of a request. ``user`` is accepted for compatibility and not used.

    Other fields are refused by ``Protocol.read``: pydantic would keep an error for each.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    model: str
    input: str | Each[str] | Each[int] | Each[Each[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: PositiveInt | None = None
    user: str | None = None


@dataclass(frozen=True)
class Smaller:
    """Dimensions to which vectors of a model may be cut: ``listed``, or any number if ``whichever``."""

    whichever: bool = False
    listed: tuple[int, ...] = ()

    def allows(self, dimensions: int) -> bool:
        """Was the model trained for it?"""
        return self.whichever or dimensions in self.listed

    def told(self, width: int) -> str:
        """What those who asked for other dimensions should know; OpenAI's words, where the model has only its own."""
        if not self.whichever and not self.listed:
            return f"This model does not support specifying dimensions other than its own {width}"
        return f"those of this model are {f'1 to {width}' if self.whichever else sorted({*self.listed, width})}"


def smaller_of(folder: Path) -> Smaller:
    """As ``config.json`` in the model's folder says: ``matryoshka_dimensions`` or ``is_matryoshka``, as vLLM reads it
    (https://docs.vllm.ai/en/latest/models/pooling_models, "Matryoshka Embeddings").

    Without either the model has one width: sentence-transformers cuts any model (``truncate_dim``), and no setting of
    its own says which dimensions one was trained for. Raises ``ModelError`` for a damaged file.
    """
    path = Path(folder) / "config.json"
    settings = read_settings(path, "model configuration")
    listed = settings.get("matryoshka_dimensions") or []
    if not isinstance(listed, list) or not all(isinstance(number, int) and number > 0 for number in listed):
        raise ModelError(f"{path}: matryoshka_dimensions is {listed!r}, expected a list of numbers. Fetch it again.")
    return Smaller(settings.get("is_matryoshka") is True and not listed, tuple(listed))


class Protocol:
    """Reads requests for one model and writes answers. ``width`` is that of its vectors."""

    def __init__(self, encoder: SentenceEncoder, width: int, name: str, smaller: Smaller, config: Serve) -> None:
        self._tokenizer, self._normalise = encoder.tokenizer, encoder.normalise
        self._width, self._smaller, self._config = width, smaller, config
        self.name = name

    def read(self, body: bytes) -> tuple[Asked, list[list[int]]]:
        """The request and the tokens of each input. Raises ``Refused`` for what is not to be served."""
        try:
            asked = Asked.model_validate_json(body)
        except ValidationError as error:
            raise _malformed(error) from None
        if asked.model_extra:
            unknown = next(iter(asked.model_extra))
            raise Refused(400, f"{unknown}: Extra inputs are not permitted.", param=unknown)
        self.require_name(asked.model)
        self._check_dimensions(asked.dimensions)
        return asked, self._sequences(asked.input)

    def require_name(self, name: str) -> None:
        """Raises ``Refused`` (404) for another model's name."""
        if name != self.name:
            raise Refused(
                404,
                f"The model '{name}' does not exist; this server has '{self.name}'.",
                code="model_not_found",
                param="model",
            )

    def answer(self, asked: Asked, sequences: Sequence[Sequence[int]], vectors: Embeddings) -> bytes:
        """The JSON for ``vectors`` [inputs, width], cut to the dimensions that were asked for."""
        if asked.dimensions is not None and asked.dimensions < self._width:
            vectors = vectors[:, : asked.dimensions]
            vectors = unit_rows(vectors) if self._normalise else vectors
        told: list[Any] = vectors.tolist() if asked.encoding_format == "float" else [*map(_base64, vectors)]
        tokens = sum(map(len, sequences))
        return to_json(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": row, "embedding": one} for row, one in enumerate(told)],
                "model": self.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is None or dimensions == self._width:
            return
        if dimensions > self._width or not self._smaller.allows(dimensions):
            raise Refused(400, f"dimensions: got {dimensions}; {self._smaller.told(self._width)}.", param="dimensions")

    def _sequences(self, given: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
        inputs: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else [*given]
        if not inputs or not all(inputs):
            raise _input("it is empty or holds an empty text or token list; expected at least one token each.")
        if len(inputs) > self._config.max_inputs:
            raise _input(f"got {len(inputs)} inputs, expected at most {self._config.max_inputs} in one request.")
        return self._tokenised(inputs) if isinstance(inputs[0], str) else self._checked(inputs)

    def _tokenised(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text. Whatever refuses the request ends the work."""
        sequences: list[list[int]] = []
        for piece in _pieces(texts):
            tokens, cut = self._tokenizer.encoded_rows(piece)
            if cut and not self._config.truncate:
                raise self._too_long(len(sequences) + cut[0])
            if not all(tokens):
                row = len(sequences) + next(row for row, one in enumerate(tokens) if not one)
                raise _input(f"input {row} is no token to this model's tokenizer; expected at least one each.")
            sequences += tokens
            self._require_few(sequences)
        return sequences

    def _require_few(self, sequences: list[list[int]]) -> None:
        tokens, most = sum(map(len, sequences)), self._config.max_tokens
        if tokens > most:
            raise _input(f"got {tokens} tokens in {len(sequences)} inputs, expected at most {most} in one request.")

    def _checked(self, lists: list[list[int]]) -> list[list[int]]:
        """Token lists are taken as they are, special tokens included."""
        self._require_few(lists)
        vocabulary = self._tokenizer.vocabulary
        for row, tokens in enumerate(lists):
            if len(tokens) > self._tokenizer.max_length:
                raise self._too_long(row)
            if wrong := [token for token in tokens if not 0 <= token < vocabulary]:
                raise _input(
                    f"input {row} holds token {wrong[0]}, expected 0 to {vocabulary - 1}. Send texts, or tokens of "
                    "this model's own tokenizer."
                )
        return lists

    def _too_long(self, row: int) -> Refused:
        return Refused(
            400,
            f"input: input {row} is longer than this model's maximum of {self._tokenizer.max_length} tokens.",
            code="context_length_exceeded",
            param="input",
        )


def _pieces(texts: list[str]) -> Iterator[list[str]]:
    """The texts in order, a few at a time: as many as begin within ``PIECE`` characters."""
    piece: list[str] = []
    characters = 0
    for text in texts:
        piece.append(text)
        characters += len(text)
        if characters >= PIECE:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def _base64(vector: Embeddings) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")


def _input(problem: str) -> Refused:
    return Refused(400, f"input: {problem}", param="input")


def _malformed(error: ValidationError) -> Refused:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(problem["loc"][0]) if problem["loc"] else None
    if field == "input" and problem["type"] != "missing":  # pydantic tells what is wrong with each of the four forms
        return _input("expected a text, a list of texts, a list of token numbers, or a list of such lists.")
    return Refused(400, f"{field or 'body'}: {problem['msg']}.", param=field)
