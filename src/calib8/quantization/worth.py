"""Ops that INT8 does not make faster, whatever their numbers: left in float where latency is what counts."""

from collections.abc import Collection, Mapping
from typing import Protocol

import onnx_ir as ir

from calib8.graph.values import MOVING, op_of
from calib8.graph.weighted import weighted_ops
from calib8.quantization.from_codes import not_to_codes
from calib8.quantization.quant_plan import QuantPlan

BEHIND_ATTENTION = (
    "it reads attention's output: TensorRT computes Q in the fused attention and brings the codes in order in a kernel "
    "of its own, which costs what INT8 gains"
)


class Stopwatch(Protocol):
    """Somebody who can time quantised models where they are to run."""

    def slow(self, quantised: ir.Model, plan: QuantPlan) -> Mapping[str, str]:
        """Why, by the name of the op, what ``plan`` quantises is no faster for it."""

    def faster(self, other: ir.Model) -> bool:
        """Whether ``other``, which leaves these in float, is faster than the model that was asked about."""


def not_faster(model: ir.Model, quantised: Collection[str] | None = None) -> dict[str, str]:
    """Why, by the name of the weighted op, if those named ``quantised`` are (all, if None is said).

    Two rules, measured with TensorRT 10.6 on an H200 (docs/tensorrt.md). What projects attention's heads gains less
    from INT8 than the kernel costs that brings the codes of the heads in order: FP16's attention writes them in order
    at once. And some convolutions are to be INT8 only between codes and codes: see ``from_codes``.
    """
    ops = [op for op in weighted_ops(model) if quantised is None or op.name in quantised]
    slow = {op.name: BEHIND_ATTENTION for op in ops if _behind_attention(op.activation)}
    return slow | not_to_codes([op for op in ops if op.name not in slow])


def _behind_attention(value: ir.Value) -> bool:
    """Is ``value`` a product of two computed tensors, its axes in another order?"""
    node, transposed = value.producer(), False
    while node is not None and op_of(node) in MOVING:
        transposed |= op_of(node) == "Transpose"
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return transposed and node is not None and op_of(node) == "MatMul" and not any(map(_constant, node.inputs))


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None
