"""What the ``model.onnx`` of a token encoder promises, whoever exported it, and the proof that a file keeps it."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calib8.errors import FetchError
from calib8.telemetry import onnxruntime
from calib8.zoo.catalogue import Weights

INPUTS = ("input_ids", "attention_mask")
#: An input that BERT has beside them: of which of two sentences each token is.
PARTS = "token_type_ids"
OUTPUT = "last_hidden_state"
#: Largest allowed difference to the answers that the catalogue keeps of PyTorch.
TOLERANCE = 1e-4


def adopt(source: Path, target: Path) -> None:
    """Copy an ONNX file that others exported, in the form of our own.

    1. Dynamic dimensions are called ``batch`` and ``sequence``.
    2. All tokens are of the first sentence: the input that would tell is computed.
    """
    model = ir.load(source)
    _of_one_part(model.graph)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type, value.shape = None, None  # these shapes still speak of the old names
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and len(value.shape) >= 2:
            value.shape = ir.Shape(["batch", "sequence", *value.shape[2:]])
    ir.save(model, target)


def _of_one_part(graph: ir.Graph) -> None:
    inputs = {value.name: value for value in graph.inputs}
    if PARTS not in inputs or INPUTS[0] not in inputs:
        return
    zero = ir.node("Constant", [], {"value": ir.tensor(np.zeros((), np.int64))}, name=f"{PARTS}/zero")
    zeros = ir.node("Mul", [inputs[INPUTS[0]], zero.outputs[0]], name=f"{PARTS}/zeros")
    graph.insert_before(graph[0], (zero, zeros))
    inputs[PARTS].replace_all_uses_with(zeros.outputs[0])
    graph.inputs.remove(inputs[PARTS])


def check(path: Path, name: str, weights: Weights) -> None:
    """Raise ``FetchError`` unless ``path`` is valid ONNX, has the promised interface, and answers like ``name``."""
    importlib.import_module("onnx").checker.check_model(str(path))
    session = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected: list[tuple[str, str, list[str | int]]] = [
        (name, "tensor(int64)", ["batch", "sequence"]) for name in INPUTS
    ]
    expected.append((OUTPUT, "tensor(float)", ["batch", "sequence", weights.hidden_size]))
    got = [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
    if got != expected:
        raise FetchError(f"the ONNX model of {name} has the interface {got}, expected {expected}.")
    _check_answers(session, name, weights)


def _check_answers(session: Any, name: str, weights: Weights) -> None:
    probe = weights.probe
    feeds = dict(zip(INPUTS, (np.array(probe.input_ids), np.array(probe.attention_mask)), strict=True))
    (answer,) = session.run(None, {key: array.astype(np.int64) for key, array in feeds.items()})
    values = np.array(probe.values)
    difference = float(np.abs(answer[:, 0, : values.shape[1]] - values).max())
    if not difference <= TOLERANCE:  # written so that NaN fails
        raise FetchError(
            f"the ONNX model of {name} answers a known sentence {difference:.3g} away from what PyTorch "
            f"answers, expected at most {TOLERANCE:g}: it is not this model. Fetch it again."
        )
