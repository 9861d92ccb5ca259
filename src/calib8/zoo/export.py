"""MPNet and BERT from PyTorch to ONNX: a traced, tidied FP32 graph, proven equal to PyTorch before anybody sees it.

Why the TorchScript exporter (``dynamo=False``): its nodes carry the names of the modules (``/encoder/layer.0/output/
dense/MatMul``), it writes plain initializers, needs no further package, and takes half the time of the dynamo one.

Four things are handed to the model in a simpler form than its own code would trace:

1. The attention mask arrives as the additive [batch, 1, 1, sequence] tensor that the layers add to the scores;
   transformers' own expansion of a 2-D mask traces into some thirty shape operators.
2. MPNet's relative position bias is a table of constants [1, heads, longest, longest] that is sliced to the sequence
   length. The original computes the buckets with ``log`` in every run, where a half precision build would round some
   of them into the neighbouring bucket, and then copies the result once per sequence of the batch.
3. BERT's token type, 0 throughout, is the constant row of its table instead of a look-up of zeros.
4. A masked position adds -10000, which FP16 can hold, where PyTorch adds the lowest FP32 number; both give a weight
   of exactly 0 after the softmax.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calib8 import telemetry
from calib8.errors import FetchError, SetupError, install
from calib8.files import read_json
from calib8.progress import Progress
from calib8.zoo.tidy import tidy

Array = npt.NDArray[Any]

OPSET = 17
#: Largest allowed difference to PyTorch, on positions that are not padding.
TOLERANCE = 1e-4
MASKED = -10_000.0
_PACKAGES = ("torch", "transformers", "safetensors")
#: ``model_type`` of a config.json -> how transformers calls its classes.
_FAMILIES = {"mpnet": "MPNet", "bert": "Bert"}
#: (batch, sequence) of the batches that are compared with PyTorch; the last row of each is half padding.
_CHECKED_SHAPES = ((1, 1), (1, 7), (3, 33), (2, 384), (2, 512))


def missing_packages() -> list[str]:
    """The packages that the export needs and this Python lacks."""
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def require_packages() -> None:
    """Raise ``SetupError`` unless the export can run."""
    if missing := missing_packages():
        raise SetupError(
            f"the model has to be exported from PyTorch, and this Python has no {', '.join(missing)}. "
            f"Install what the export needs: {install('export')}"
        )


def tool_versions() -> dict[str, str]:
    """Versions of everything that shapes the exported file."""
    return {name: importlib.metadata.version(name) for name in (*_PACKAGES, "onnx", "onnx-ir", "onnxruntime")}


def export(source: Path, target: Path, metadata: Mapping[str, str], progress: Progress) -> float:
    """Turn ``source`` (config.json, model.safetensors) into the ONNX file ``target``; returns the largest difference.

    ``metadata`` goes into the file's ``metadata_props``. Inputs: ``input_ids`` and ``attention_mask``, int64 [batch,
    sequence]. Output: ``last_hidden_state``, float32 [batch, sequence, hidden]. Raises ``SetupError`` when PyTorch is
    absent, ``FetchError`` when the graph differs from PyTorch by more than ``TOLERANCE``: ``target`` is no good then.
    """
    require_packages()
    progress.update("export", 0, 1)
    model = _load(source)
    # What PyTorch says is taken from the untouched model, before the wrapper replaces its position bias.
    longest = model.config.max_position_embeddings
    if model.config.model_type == "mpnet":  # its positions count from behind the padding token's number
        longest -= model.config.pad_token_id + 1
    batches = [_batch(shape, model.config) for shape in _CHECKED_SHAPES if shape[1] <= longest]
    expected = [_run_torch(model, *batch) for batch in batches]
    _trace(model, longest, target, metadata)
    progress.update("export", 1, 1)
    return _compare(target, batches, expected, progress)


def _load(source: Path) -> Any:
    """The model in evaluation mode. Built from its config and filled strictly: nothing is downloaded or guessed."""
    telemetry.switch_off(telemetry.HUB, telemetry.ORT)  # onnxscript takes ONNX Runtime where it folds constants
    transformers = importlib.import_module("transformers")
    load_file = importlib.import_module("safetensors.torch").load_file
    options = read_json(source / "config.json", "model configuration")
    family = _FAMILIES.get(options.get("model_type"))
    if family is None:
        raise FetchError(
            f"{source} holds a model of type {options.get('model_type')!r}, expected {' or '.join(_FAMILIES)}."
        )
    config = getattr(transformers, f"{family}Config")(**options, attn_implementation="eager")
    model = getattr(transformers, f"{family}Model")(config, add_pooling_layer=False)
    state = load_file(source / "model.safetensors")
    unused = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    try:
        model.load_state_dict({name: tensor for name, tensor in state.items() if name not in unused}, strict=True)
    except RuntimeError as error:
        raise FetchError(f"{source} holds weights that its config.json does not describe: {error}") from error
    return model.eval()  # or dropout would be traced


def _trace(model: Any, longest: int, target: Path, metadata: Mapping[str, str]) -> None:
    """Write the tidied graph of ``model``; see the module's docstring for what is simplified. Changes ``model``."""
    torch = importlib.import_module("torch")
    _simplify(model, longest)
    ids, mask = (torch.from_numpy(array) for array in _batch((2, 11), model.config))
    names = ["input_ids", "attention_mask", "last_hidden_state"]
    with _quiet(torch), torch.no_grad():
        torch.onnx.export(
            model,
            (ids, mask),
            str(target),
            dynamo=False,
            opset_version=OPSET,
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
        )
    graph = ir.load(target)
    tidy(graph)
    graph.metadata_props.update(metadata)
    ir.save(graph, target)


def _simplify(model: Any, longest: int) -> None:
    """Give ``model`` two inputs, one output, a ready mask and what its family needs.

    The model itself stays the traced root, so that its attribute names are the names of the nodes.
    """
    torch = importlib.import_module("torch")
    embed = _bert(model) if model.config.model_type == "bert" else _mpnet(model, longest)

    def forward(input_ids: Any, attention_mask: Any) -> Any:
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * MASKED
        return model.encoder(embed(input_ids), attention_mask=mask)[0]

    model.forward = forward


def _mpnet(model: Any, longest: int) -> Callable[[Any], Any]:
    """Replace the position bias of ``model``; returns its embedding of tokens."""
    torch = importlib.import_module("torch")
    with torch.no_grad():
        table = model.encoder.compute_position_bias(torch.zeros(1, longest, 1)).contiguous()
    model.encoder.register_buffer("position_bias", table)

    def position_bias(hidden: Any) -> Any:
        length = hidden.shape[1]
        return model.encoder.position_bias[:, :, :length, :length]

    model.encoder.compute_position_bias = position_bias
    return lambda ids: model.embeddings(input_ids=ids)


def _bert(model: Any) -> Callable[[Any], Any]:
    """An embedding of tokens that are all of type 0."""
    parts = model.embeddings
    first = parts.token_type_embeddings.weight[0].detach()

    def embed(ids: Any) -> Any:
        positions = parts.position_embeddings(parts.position_ids[:, : ids.shape[1]])
        return parts.LayerNorm(parts.word_embeddings(ids) + first + positions)

    return embed


def _batch(shape: tuple[int, int], config: Any) -> tuple[Array, Array]:
    """Random token ids and their mask; the second half of the last row is padding."""
    rows, length = shape
    random = np.random.default_rng(rows * 1000 + length)
    ids = random.integers(config.pad_token_id + 1, config.vocab_size, size=shape, dtype=np.int64)
    mask = np.ones(shape, dtype=np.int64)
    if length > 1:
        mask[-1, length // 2 :] = 0
    return np.where(mask == 1, ids, config.pad_token_id), mask


def _run_torch(model: Any, ids: Array, mask: Array) -> Array:
    torch = importlib.import_module("torch")
    with torch.inference_mode():
        output = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    answer: Array = output.last_hidden_state.numpy()
    return answer


def _compare(target: Path, batches: list[tuple[Array, Array]], expected: list[Array], progress: Progress) -> float:
    """Largest absolute difference between ONNX Runtime and PyTorch on real positions. Raises ``FetchError``."""
    session = telemetry.onnxruntime().InferenceSession(str(target), providers=["CPUExecutionProvider"])
    worst = 0.0
    for done, ((ids, mask), answer) in enumerate(zip(batches, expected, strict=True), start=1):
        (got,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        difference = float(np.abs(got - answer)[mask == 1].max())
        if not difference <= TOLERANCE:  # written so that NaN fails
            raise FetchError(
                f"the exported ONNX model differs from PyTorch by {difference:.3g} on a batch of {ids.shape[0]} x "
                f"{ids.shape[1]} tokens, expected at most {TOLERANCE:g}. Versions: {tool_versions()}. "
                "Install the versions of torch and transformers that calib8[export] was tested with and fetch again."
            )
        worst = max(worst, difference)
        progress.update("check", done, len(batches))
    return worst


@contextlib.contextmanager
def _quiet(torch: Any) -> Iterator[None]:
    """Silence what the exporter says about itself, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        yield
