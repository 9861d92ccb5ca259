"""What shapes, and how much memory, the tensors of a model have for inputs of known shapes: nothing is computed."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TypeAlias

import onnx
import onnx.shape_inference
import onnx_ir as ir

from calib8.graph.mapped import SMALLEST

Shape: TypeAlias = tuple[int, ...]
#: What a runtime holds beside the tensors that are alive, as a multiple of them: copies that kernels work on, and what
#: calibration makes of them. Measured on CNNs of 1 to 150 MB a sample: 1 to 2.4.
BESIDE = 2.5


class Inference:
    """ONNX's shape inference on ``model``, for inputs of known shapes."""

    def __init__(self, model: ir.Model) -> None:
        clone = model.clone()
        for name, value in clone.graph.initializers.items():
            weight = value.const_value
            if weight is not None and weight.nbytes >= SMALLEST:  # no shape is as long as that
                value.const_value = ir.ExternalTensor(
                    "left out", 0, weight.nbytes, weight.dtype, shape=ir.Shape(weight.shape.numpy()), name=name
                )
        self._proto = ir.to_proto(clone)
        del self._proto.graph.value_info[:]
        for output in self._proto.graph.output:
            output.type.tensor_type.ClearField("shape")

    def of(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Tensor name -> shape, of all tensors of which every dimension is certain; none if they contradict."""
        for entry in self._proto.graph.input:
            dimensions = entry.type.tensor_type.shape.dim
            for dimension, size in zip(dimensions, inputs[entry.name], strict=True):
                dimension.dim_value = size
        try:
            inferred = onnx.shape_inference.infer_shapes(self._proto, strict_mode=True, data_prop=True).graph
        except onnx.shape_inference.InferenceError:
            return {}
        found = {}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(dimension.HasField("dim_value") for dimension in kind.shape.dim):
                found[value.name] = tuple(dimension.dim_value for dimension in kind.shape.dim)
        return found if self._reshapes_fit(found) else {}

    def _reshapes_fit(self, found: Mapping[str, Shape]) -> bool:
        """Whether every Reshape keeps the number of values: inference believes the shape that a traced model gives."""
        nodes = (node for node in self._proto.graph.node if node.op_type == "Reshape")
        pairs = ((found.get(node.input[0]), found.get(node.output[0])) for node in nodes)
        return all(a is None or b is None or math.prod(a) == math.prod(b) for a, b in pairs)


class Footprint:
    """How much memory ``model`` takes for its activations."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._known: dict[tuple[tuple[str, Shape], ...], int] = {}

    @cached_property
    def _inference(self) -> Inference:
        return Inference(self._model)

    def bytes_of(self, inputs: Mapping[str, Shape]) -> int:
        """About as many bytes for inputs of these shapes; what inference does not tell counts as nothing."""
        key = tuple(inputs.items())
        if key not in self._known:
            self._known[key] = int(BESIDE * _most_alive(self._model.graph, {**inputs, **self._inference.of(inputs)}))
        return self._known[key]


def _most_alive(graph: ir.Graph, shapes: Mapping[str, Shape]) -> int:
    """Bytes of the tensors that are needed at once, nodes computed in their order."""
    last = {value: number for number, node in enumerate(graph) for value in node.inputs if value is not None}

    def size(value: ir.Value) -> int:
        if value.const_value is not None:
            return 0
        return int(math.prod(shapes.get(value.name or "", (0,))) * _width(value.dtype))

    alive = sum(map(size, graph.inputs))
    most = alive
    for number, node in enumerate(graph):
        alive += sum(map(size, node.outputs))
        most = max(most, alive)
        done = {value for value in (*node.inputs, *node.outputs) if value is not None and last.get(value, -1) <= number}
        alive -= sum(size(value) for value in done if not value.is_graph_output())
    return int(most)


def _width(dtype: ir.DataType | None) -> float:
    """Bytes of a number; of what has no width, such as text, or is unknown, those of FP32."""
    return 4 if dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING) else dtype.itemsize
