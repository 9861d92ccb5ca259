"""The ``config.pbtxt`` of each model in a repository, as messages.

Fields: triton-inference-server/common, protobuf/model_config.proto, and the user guide's pages model_configuration,
batcher and ensemble_models.
"""

from collections.abc import Mapping, Sequence

from calib8.engine.sidecar import TensorInfo
from calib8.errors import ModelError
from calib8.serving.triton.batches import Batches
from calib8.serving.triton.config import Triton
from calib8.serving.triton.pbtxt import Enum, Message, parameters
from calib8.serving.triton.served import TEXT_INPUTS, Served

#: NumPy's names to Triton's.
TYPES = {
    "bool": "TYPE_BOOL",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    "bfloat16": "TYPE_BF16",
}
PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
#: The newest version alone, which is Triton's default, too.
NEWEST: Message = {"latest": {"num_versions": 1}}
ON_CPU: Message = {"count": 1, "kind": Enum("KIND_CPU")}
TEXT: Message = {"name": "text", "data_type": Enum("TYPE_STRING"), "dims": [1]}


def model_config(name: str, served: Served, batches: Batches, config: Triton) -> Message:
    """Of the model or engine itself."""
    group: dict[str, object] = {"count": config.instances, "kind": Enum(f"KIND_{served.device.upper()}")}
    if served.sets:
        group["profile"] = [str(index) for index in range(len(served.sets))]
    batching: dict[str, object] = {"max_queue_delay_microseconds": config.queue_delay_us}
    if batches.preferred:
        batching["preferred_batch_size"] = list(batches.preferred)
    return {
        "name": name,
        "platform": PLATFORMS[served.backend],
        "backend": served.backend,
        "max_batch_size": batches.largest,
        "input": [_tensor(tensor, batches.largest > 0) for tensor in served.inputs],
        "output": [_tensor(tensor, batches.largest > 0) for tensor in served.outputs],
        **({"dynamic_batching": batching} if batches.largest else {}),
        "instance_group": [group],
        "version_policy": NEWEST,
    }


def tokeniser_config(name: str, served: Served, batches: Batches, settings: Mapping[str, object]) -> Message:
    """Of the step from text to the model's inputs, and the mask that pooling needs."""
    given = {tensor.name: tensor for tensor in served.inputs}
    outputs = [_named(key, [-1], given[key].dtype) for key in TEXT_INPUTS if key in given]
    return _python(name, batches, [TEXT], outputs, settings)


def pooling_config(
    name: str, served: Served, hidden: TensorInfo, batches: Batches, settings: Mapping[str, object]
) -> Message:
    """Of the step from token vectors to sentence vectors."""
    mask = next(tensor for tensor in served.inputs if tensor.name == "attention_mask")
    inputs = [_named("hidden", [-1, width_of(hidden)], hidden.dtype), _named("attention_mask", [-1], mask.dtype)]
    return _python(name, batches, inputs, [_embedding(hidden)], settings)


def ensemble_config(
    name: str, steps: tuple[str, str, str], served: Served, hidden: TensorInfo, batches: Batches
) -> Message:
    """Of the whole: text in, vectors out. ``steps`` names tokeniser, model and pooling."""
    tokens = [tensor.name for tensor in served.inputs]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": batches.largest,
        "input": [TEXT],
        "output": [_embedding(hidden)],
        "version_policy": NEWEST,
        "ensemble_scheduling": {
            "step": [
                _step(steps[0], {"text": "text"}, {token: token for token in tokens}),
                _step(steps[1], {token: token for token in tokens}, {hidden.name: "hidden"}),
                _step(steps[2], {"hidden": "hidden", "attention_mask": "attention_mask"}, {"embedding": "embedding"}),
            ]
        },
    }


def width_of(hidden: TensorInfo) -> int:
    """Numbers per vector. Raises ``ModelError`` if the model does not tell."""
    if hidden.shape[2] == -1:
        raise ModelError(f"the width of {hidden.name!r} is dynamic, expected a number. Export the model with it fixed.")
    return hidden.shape[2]


def _python(
    name: str, batches: Batches, inputs: Sequence[Message], outputs: Sequence[Message], settings: Mapping[str, object]
) -> Message:
    """``dynamic_batching`` hands requests over together; each is answered by itself."""
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": batches.largest,
        "input": list(inputs),
        "output": list(outputs),
        "parameters": parameters(settings),
        "dynamic_batching": {},
        "instance_group": [ON_CPU],
        "version_policy": NEWEST,
    }


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Message:
    """Keys are names of the step's own tensors, values those of the ensemble."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": own, "value": shared} for own, shared in inputs.items()],
        "output_map": [{"key": own, "value": shared} for own, shared in outputs.items()],
    }


def _embedding(hidden: TensorInfo) -> Message:
    return _named("embedding", [width_of(hidden)], "float32")


def _tensor(tensor: TensorInfo, batched: bool) -> Message:
    """``dims`` leave the batch out and cannot be empty: a tensor of single numbers is reshaped."""
    dims = list(tensor.shape[1:] if batched else tensor.shape)
    return _named(tensor.name, dims, tensor.dtype) if dims else _named(tensor.name, [1], tensor.dtype) | {"reshape": {}}


def _named(name: str, dims: list[int], dtype: str) -> dict[str, object]:
    if dtype not in TYPES:
        raise ModelError(f"{name!r} has the type {dtype}, which Triton does not know; it knows {', '.join(TYPES)}.")
    return {"name": name, "data_type": Enum(TYPES[dtype]), "dims": dims}
