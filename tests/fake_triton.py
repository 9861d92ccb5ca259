"""``triton_python_backend_utils`` without a server: what the exported steps use of it, and a request through a step."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf import text_format
from google.protobuf.json_format import MessageToJson
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

Arrays = dict[str, NDArray[Any]]
NUMPY = {"TYPE_INT32": np.int32, "TYPE_INT64": np.int64, "TYPE_FP16": np.float16, "TYPE_FP32": np.float32}


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> NDArray[Any]:
        return self.array


class TritonError(Exception):
    INVALID_ARG = 3

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.output_tensors, self.error = output_tensors, error


def read_config(folder: Path) -> Any:
    """A model's ``config.pbtxt`` as Triton's own message; a field that Triton does not know is an error."""
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())


def kernels(model: Path, folder: Path) -> dict[str, int]:
    """Operators, and how many of each Triton's ONNX Runtime back end runs: of options it sets this level alone.

    ``folder`` is for what ONNX Runtime writes.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # a warning that what it writes fits this machine alone
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimised.onnx", load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node))


@contextmanager
def utilities() -> Iterator[None]:
    """The module that Triton offers to models, while they are imported."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.get_input_tensor_by_name = lambda request, name: next(one for one in request if one.name == name)
    module.triton_string_to_numpy = NUMPY.__getitem__
    sys.modules["triton_python_backend_utils"] = module
    try:
        yield
    finally:
        del sys.modules["triton_python_backend_utils"]


class Step:
    """A model of the Python back end, loaded from a repository as Triton does."""

    def __init__(self, folder: Path) -> None:
        source = folder / "1" / "model.py"
        names: dict[str, Any] = {"__name__": f"model_of_{folder.name}", "__file__": str(source)}
        with utilities():
            exec(compile(source.read_text(encoding="utf-8"), source, "exec"), names)
        self.model = names["TritonPythonModel"]()
        config = MessageToJson(read_config(folder), preserving_proto_field_name=True)
        self.model.initialize(
            {"model_config": config, "model_repository": str(folder), "model_version": "1", "model_name": folder.name}
        )
        self.declared = {one["name"]: NUMPY[one["data_type"]] for one in json.loads(config)["output"]}

    def __call__(self, *requests: Mapping[str, NDArray[Any]]) -> list[Arrays | TritonError]:
        """The answers to requests that the batcher handed over together; outputs are as the config declares them."""
        given = [[Tensor(name, array) for name, array in request.items()] for request in requests]
        answers: list[Arrays | TritonError] = []
        for response in self.model.execute(given):
            if response.error is not None:
                answers.append(response.error)
                continue
            outputs = {tensor.name: tensor.array for tensor in response.output_tensors}
            assert {name: array.dtype for name, array in outputs.items()} == self.declared
            answers.append(outputs)
        return answers


def text(*sentences: str | bytes) -> Arrays:
    """A request with these texts, as Triton hands them over: bytes, [batch, 1]."""
    encoded = [one.encode() if isinstance(one, str) else one for one in sentences]
    return {"text": np.array(encoded, object).reshape(-1, 1)}
