"""Weighted ops: the MatMul, Gemm and Conv nodes whose weight is a constant. They are what INT8 is for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.errors import ModelError
from calib8.graph.values import op_of
from calib8.provenance import PLAN

#: What calib8 does not quantise from, and what people call it.
OTHER_FLOATS = {ir.DataType.FLOAT16: "FP16", ir.DataType.BFLOAT16: "BF16", ir.DataType.DOUBLE: "FP64"}


@dataclass(frozen=True)
class WeightedOp:
    """One MatMul, Gemm or Conv with a constant floating-point weight.

    ``channel_axis`` is the axis of the weight that runs over output channels: the only axis along which TensorRT
    takes per-channel weight scales.
    """

    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    channel_axis: int

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or ""

    @property
    def kind(self) -> str:
        """``MatMul``, ``Gemm`` or ``Conv``."""
        return self.node.op_type

    @property
    def channels(self) -> int:
        """Number of output channels (N)."""
        return int(self.weight_array().shape[self.channel_axis])

    def weight_array(self) -> NDArray[np.float32]:
        """The weight as float32, in the model's own layout."""
        assert self.weight.const_value is not None
        return self.weight.const_value.numpy().astype(np.float32, copy=False)


def weighted_ops(model: ir.Model) -> list[WeightedOp]:
    """Every weighted op of the main graph, in graph order."""
    return list(_find(model.graph))


def _find(graph: ir.Graph) -> Iterator[WeightedOp]:
    for node in graph:
        axis = _channel_axis(node)
        if axis is None:
            continue
        activation, weight = node.inputs[0], node.inputs[1]
        if activation is None or weight is None or activation.const_value is not None:
            continue
        if weight.const_value is None or weight.const_value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        if node.op_type != "Conv" and len(weight.const_value.shape) != 2:
            continue  # a batched constant has no per-output-channel axis that TensorRT accepts
        yield WeightedOp(node, activation, weight, axis)


def _channel_axis(node: ir.Node) -> int | None:
    kind = op_of(node)
    if kind == "MatMul":
        return 1
    if kind == "Conv":
        return 0
    if kind == "Gemm" and not node.attributes.get_int("transA", 0):
        return 0 if node.attributes.get_int("transB", 0) else 1
    return None


def require_single(model: ir.Model) -> None:
    """Raise ``ModelError`` for a MatMul, Gemm or Conv that computes in FP16, BF16 or FP64."""
    for node in model.graph:
        if _channel_axis(node) is not None:
            refuse_other_floats(node)


def refuse_other_floats(node: ir.Node) -> None:
    """Raise ``ModelError`` if ``node`` reads floats that are not FP32."""
    other = next((value.dtype for value in node.inputs if value is not None and value.dtype in OTHER_FLOATS), None)
    if other is not None:
        raise ModelError(
            f"node {node.name!r} computes in {OTHER_FLOATS[other]}; expected an FP32 model. Export it in FP32: calib8 "
            "itself turns into FP16 what does not become INT8."
        )


def require_original(model: ir.Model) -> None:
    """Raise ``ModelError`` if calib8 quantised ``model``, whose ops in float would be quantised behind rounded ones."""
    if PLAN in model.metadata_props:
        raise ModelError(
            "the model was quantised by calib8 already: it carries the plan. Expected its FP32 original. To quantise "
            "more of it, quantise that with other options."
        )
