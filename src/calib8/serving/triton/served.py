"""What Triton has to be told of a model or an engine: its tensors, and what runs it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from calib8.engine.profiles import ProfileSet, profile_sets
from calib8.engine.sidecar import Sidecar, TensorInfo, describe_engine, runs_on
from calib8.errors import ConfigError, InputError, ModelError
from calib8.graph.inputs import declared_inputs
from calib8.graph.io import load
from calib8.runtime.canary import kinds_of, wrong
from calib8.runtime.contract import contract_of
from calib8.runtime.forms import float_codes, is_quantised
from calib8.runtime.open import is_engine
from calib8.serving.triton.config import Device
from calib8.text.sentence import token_output

#: Inputs of a text encoder, of which the last may be absent.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Served:
    """One artefact. ``model`` is the ONNX model, None for an engine; ``sets`` are an engine's optimisation profiles.

    ``lengths`` are the shortest and the longest ``input_ids``; None where nothing is known to bound them.
    """

    backend: Literal["tensorrt", "onnxruntime"]
    device: Device
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    sets: tuple[ProfileSet, ...]
    lengths: tuple[int, int | None]
    #: For people: the Triton that can load it.
    needs: str
    model: ir.Model | None = None
    #: Of an INT8 model on the CPU: whether its form is for one with VNNI. None of any other.
    vnni: bool | None = None

    @property
    def file(self) -> str:
        """The name that the back end expects."""
        return "model.plan" if self.backend == "tensorrt" else "model.onnx"

    @property
    def batched(self) -> bool:
        """Whether the first dimension of every tensor is dynamic."""
        return all(tensor.shape and tensor.shape[0] == -1 for tensor in (*self.inputs, *self.outputs))

    @property
    def hidden(self) -> TensorInfo | None:
        """The output [batch, sequence, width] of a token encoder."""
        name = token_output({tensor.name: len(tensor.shape) for tensor in self.outputs})
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    @property
    def takes_tokens(self) -> bool:
        """Whether it turns tokens into one vector each."""
        names = {tensor.name for tensor in self.inputs if len(tensor.shape) == 2}
        return (
            len(names) == len(self.inputs) and names in (set(TEXT_INPUTS[:2]), set(TEXT_INPUTS)) and bool(self.hidden)
        )


def served_of(path: Path, device: Device | None, vnni: bool | None = None) -> Served:
    """Look at an ONNX model or an engine. ``device`` and ``vnni`` as in ``Triton``.

    Raises ``InputError`` if it is damaged or nothing that Triton runs, ``ConfigError`` for an engine on the CPU and for
    ``vnni`` where it says nothing.
    """
    engine = is_engine(path)
    if engine and device == "cpu":
        raise ConfigError(f"{path} is an engine, which runs on a GPU only. Export the ONNX model for the CPU.")
    served = _of_engine(path, describe_engine(path)) if engine else _of_model(load(path), device or "cpu", vnni)
    if vnni is not None and served.vnni is None:
        raise ConfigError(
            f"got vnni={vnni}, which is for INT8 ONNX models on the CPU, and {path} is none. Leave it out."
        )
    return served


def _of_engine(path: Path, sidecar: Sidecar) -> Served:
    if sidecar.family == "rtx":
        raise InputError(
            f"{path} was built by {sidecar.builder}, and Triton's back end runs engines of TensorRT only. Build one "
            "with calib8 build --family tensorrt on the GPU that will serve it, or export the Q/DQ model (.onnx)."
        )
    inputs = tuple(tensor for tensor in sidecar.tensors if tensor.mode == "input")
    sets = profile_sets(sidecar.profiles)
    ranges = [
        known["input_ids"].ranges()[1] for known in sets if "input_ids" in known and len(known["input_ids"].max) == 2
    ]
    fixed = _fixed_length(inputs)
    needs = f"Triton with TensorRT {sidecar.tensorrt_version} on {runs_on(sidecar)}"
    if sidecar.version_compatible:
        needs += ", or a later TensorRT of that major version; start it with "
        needs += "--backend-config=tensorrt,version-compatible=true"
    return Served(
        backend="tensorrt",
        device="gpu",
        inputs=inputs,
        outputs=tuple(tensor for tensor in sidecar.tensors if tensor.mode == "output"),
        sets=sets if sidecar.profiles else (),
        lengths=(min(low for low, _, _ in ranges), max(high for _, _, high in ranges))
        if ranges
        else (fixed or 1, fixed),
        needs=needs,
    )


def _of_model(model: ir.Model, device: Device, vnni: bool | None) -> Served:
    if told := float_codes(model):
        raise ModelError(
            f"the model is in {told}, and Triton's ONNX Runtime takes a Relu away before Q, which is wrong. Export "
            "the engine that was built from it."
        )
    inputs = tuple(
        TensorInfo(name=spec.name, mode="input", dtype=spec.dtype.name, shape=tuple(map(_size, spec.shape)))
        for spec in declared_inputs(model)
    )
    fixed = _fixed_length(inputs)
    form = (_like_vnni(model) if vnni is None else vnni) if device == "cpu" and is_quantised(model) else None
    needs = " and a GPU" if device == "gpu" else " on a CPU with AVX512-VNNI or AVX-VNNI" if form else ""
    return Served(
        backend="onnxruntime",
        device=device,
        inputs=inputs,
        outputs=tuple(_outputs(model.graph.outputs)),
        sets=(),
        lengths=(fixed or 1, contract_of(model).largest("input_ids", 1)),
        needs=f"Triton with the ONNX Runtime back end{needs}",
        model=model,
        vnni=form,
    )


def _like_vnni(model: ir.Model) -> bool:
    """Whether the ONNX Runtime of this machine multiplies u8 by s8 right, which without VNNI it does not."""
    return wrong("onnxruntime", "u8", kinds_of(model)) is None


def _outputs(values: Iterable[ir.Value]) -> Iterable[TensorInfo]:
    for value in values:
        if value.dtype is None or value.shape is None:
            raise ModelError(f"output {value.name!r} of the model has no type or no rank. Export the model again.")
        dtype = np.dtype(value.dtype.numpy()).name
        yield TensorInfo(name=value.name or "", mode="output", dtype=dtype, shape=tuple(map(_size, value.shape)))


def _size(dimension: object) -> int:
    return dimension if isinstance(dimension, int) else -1


def _fixed_length(inputs: Iterable[TensorInfo]) -> int | None:
    """The length of ``input_ids``, if it is fixed."""
    shape = next((tensor.shape for tensor in inputs if tensor.name == "input_ids"), ())
    return shape[1] if len(shape) == 2 and shape[1] != -1 else None
