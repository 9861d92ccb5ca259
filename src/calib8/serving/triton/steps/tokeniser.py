"""Text in, tokens out. A model of Triton's Python back end, written by calib8; needs numpy and tokenizers.

Parameters of its config.pbtxt: ``max_length`` (tokens, the rest is cut), ``pad_to`` (sequences are padded to a multiple
of it), ``min_length`` and ``longest`` (what the encoder takes, padding included), ``pad_id``, ``lower_case`` (0 or 1),
``prompt`` (put before every text).
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """``text`` [batch, 1] of UTF-8 -> ``input_ids``, ``attention_mask``, perhaps ``token_type_ids`` [batch, length]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load ``tokenizer.json``, which lies beside this file."""
        config = json.loads(args["model_config"])
        self.prompt = config["parameters"].pop("prompt").get("string_value", "")  # JSON of protobuf lacks what is empty
        given = {name: int(value["string_value"]) for name, value in config["parameters"].items()}
        self.min_length, self.longest, self.pad_to = given["min_length"], given["longest"], given["pad_to"]
        self.pad_id, self.lower_case = given["pad_id"], bool(given["lower_case"])
        self.types = {one["name"]: pb_utils.triton_string_to_numpy(one["data_type"]) for one in config["output"]}
        folder = Path(args["model_repository"]) / args["model_version"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(given["max_length"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response per request. The texts of all are tokenised together; each request is padded by itself."""
        read = [_texts(request) for request in requests]
        every = [self.prompt + text for texts in read for text in texts or ()]
        every = [text.lower() for text in every] if self.lower_case else every
        tokens = iter([encoding.ids for encoding in self.tokenizer.encode_batch(every)])
        return [self._response(texts, tokens) for texts in read]

    def _response(self, texts: list[str] | None, tokens: Iterator[list[int]]) -> Any:
        if texts is None:
            error = pb_utils.TritonError("text is not UTF-8: send UTF-8 bytes", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        arrays = self._arrays(list(islice(tokens, len(texts))))
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, arrays[name].astype(kind)) for name, kind in self.types.items()]
        )

    def _arrays(self, tokens: list[list[int]]) -> dict[str, np.ndarray[Any, Any]]:
        needed = max([self.min_length, *map(len, tokens)])
        length = min(-(-needed // self.pad_to) * self.pad_to, self.longest)
        ids = np.full((len(tokens), length), self.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = sentence
            mask[row, : len(sentence)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _texts(request: Any) -> list[str] | None:
    """The texts of a request, None if one is no UTF-8."""
    array = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
    try:
        return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in array.reshape(-1)]
    except UnicodeDecodeError:
        return None
