"""Token vectors in, sentence vectors out. A model of Triton's Python back end, written by calib8; needs numpy.

Parameters of its config.pbtxt: ``pooling`` (mean or cls) and ``normalise`` (0 or 1).
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """``hidden`` [batch, length, width], ``attention_mask`` [batch, length] -> ``embedding`` float32 [batch, width].

    The mean of no tokens is zeros, as in sentence-transformers: an error would refuse the whole request for one text.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters."""
        given = json.loads(args["model_config"])["parameters"]
        self.mean = given["pooling"]["string_value"] == "mean"
        self.normalise = given["normalise"]["string_value"] == "1"

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response per request."""
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("embedding", self._embedding(request))])
            for request in requests
        ]

    def _embedding(self, request: Any) -> np.ndarray[Any, Any]:
        hidden = pb_utils.get_input_tensor_by_name(request, "hidden").as_numpy().astype(np.float32)
        mask = pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy().astype(np.float32)
        pooled = hidden[:, 0]
        if self.mean:
            total, tokens = np.einsum("bsw,bs->bw", hidden, mask), mask.sum(axis=1, keepdims=True)
            pooled = np.divide(total, tokens, out=np.zeros_like(total), where=tokens > 0)
        if self.normalise:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(pooled, np.float32)
