"""Layers as TensorRT writes them, and the real lists that are kept in ``data``."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib8.engine.layers import Layer, Tensor
from calib8.engine.layers_log import layers_from_log
from calib8.engine.quantized import QuantizedOp

DATA = Path(__file__).parent / "data"
TENSORRT = DATA / "tensorrt-10.6"
LINEAR = [f"attention/attn/{name}" for name in "qkvo"] + ["intermediate/dense", "output/dense"]


def text_of(path: Path) -> str:
    """A list that is kept, every byte of it."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def mpnet(name: str) -> str:
    """What TensorRT 10.6 printed on an H200 for a form of MPNet."""
    return text_of(TENSORRT / f"mpnet-{name}.layers.txt.gz")


def mpnet_ops() -> list[QuantizedOp]:
    """MPNet's 72 linear ops."""
    names = [f"/encoder/layer.{layer}/{part}/MatMul" for layer in range(12) for part in LINEAR]
    return [QuantizedOp(name, "MatMul", f"{name}.weight", 768 * 768, None) for name in names]


def resnet50_ops() -> list[QuantizedOp]:
    """The 53 convolutions of a ResNet-50 and its last product."""
    convolutions = ["/Conv", *(f"/Conv_{number}" for number in range(1, 53))]
    ops = [QuantizedOp(name, "Conv", f"{name}.weight", 4096, None) for name in convolutions]
    return [*ops, QuantizedOp("/MatMul", "MatMul", "/MatMul.weight", 2048, None)]


def read(text: str) -> list[Layer]:
    """By way of the log."""
    return layers_from_log([text])


def as_log(layers: Sequence[Layer], tensor_name: str = "t", separator: str = "\x1f") -> str:
    """The builder's message; every tensor is called the same."""
    return "\n".join(["Layers:", *(_line(layer, tensor_name, separator) for layer in layers), "", "Bindings:", "x", ""])


def as_json(layers: Sequence[Layer], tensor_name: str = "t", separator: str = "\x1e") -> str:
    """The inspector's document."""
    return json.dumps({"Layers": [_item(layer, tensor_name, separator) for layer in layers], "Bindings": ["x"]})


def _line(layer: Layer, tensor_name: str, separator: str) -> str:
    def tensors(known: Sequence[Tensor]) -> str:
        sizes = [",".join(map(str, tensor.dims)) for tensor in known]
        shown = (
            f"{{ Name: {tensor_name}, Dimensions: [{dims}], Format/Datatype: {tensor.dtype} }}"
            for dims, tensor in zip(sizes, known, strict=True)
        )
        return f"[ {', '.join(shown)}]" if known else "[]"

    constants = f", Constants: {tensors(layer.constants)}" if layer.constants else ""
    weights = f', Weights: {{"Type": "{layer.weights}", "Count": 0}}' if layer.weights else ""
    return (
        f"Name: {layer.name}, LayerType: {layer.kind}, Inputs: {tensors(layer.inputs)}{constants}, "
        f"Outputs: {tensors(layer.outputs)}{weights}, HasDynamicFilter: {layer.dynamic_filter:d}, "
        f"TacticName: {layer.tactic}, StreamId: 0, Metadata: {_metadata(layer, separator)}"
    )


def _item(layer: Layer, tensor_name: str, separator: str) -> dict[str, Any]:
    def tensors(known: Sequence[Tensor]) -> list[dict[str, Any]]:
        return [{"Name": tensor_name, "Dimensions": tensor.dims, "Format/Datatype": tensor.dtype} for tensor in known]

    return {
        "Name": layer.name,
        "LayerType": layer.kind,
        "Inputs": tensors(layer.inputs),
        "Constants": tensors(layer.constants),
        "Outputs": tensors(layer.outputs),
        "Weights": {"Type": layer.weights, "Count": 0},
        "HasDynamicFilter": int(layer.dynamic_filter),
        "TacticName": layer.tactic,
        "Metadata": _metadata(layer, separator),
    }


def _metadata(layer: Layer, separator: str) -> str:
    return separator.join(f"[ONNX Layer: {node}]" for node in layer.nodes)


def kept_layers(log: Path) -> list[Layer]:
    """Of a log as ``--tensorrt-log`` keeps it: a severity before a message, control characters as what can be seen."""
    told = log.read_text(encoding="utf-8").partition("] Layers:")[2]
    return layers_from_log(["Layers:" + told.replace("\\x1e", "\x1e").replace("\\x1f", "\x1f")])
