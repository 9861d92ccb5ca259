"""What a Q/DQ model asks of TensorRT: which ops are to run in 8 bits, and whether its Q/DQ means the same to both.

Rules, from NVIDIA's "Working with Quantized Types" and from plans of TensorRT-RTX 1.7.1:
1. INT8 and FP8 are symmetric, and a network has one of them. TensorRT takes uint8, or the missing zero point that
   means uint8 in ONNX, for int8: other numbers.
2. Scales are positive and finite. FP16 per-channel weight scales make TensorRT-RTX store the unscaled INT32 accumulator
   as FP16, which overflows; the full TensorRT scales it in FP32 (seen on an H200).
3. An op runs in 8 bits if its activation comes from ``Q -> DQ`` with one constant scale, and its weight from a DQ of
   constant codes whose scales run over output channels. Casts, transposes and reshapes may stand between.
Everything that breaks 3 is built without a word and computed in float: ``plan_check`` finds it, ``hint`` explains it.
4. What conditions an activation is ``[Cast] -> [Sub] -> [Gather] -> [Mul] -> Q`` with constant vectors, each read by
   the next alone. It is to cost no kernel, and ``plan_check`` looks.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.convenience import get_const_tensor

from calib8.errors import ModelError
from calib8.graph.codes import CODES, QDQ, code_type, code_types
from calib8.graph.values import op_of, plan_name

KINDS = ("MatMul", "Gemm", "Conv")
#: TensorRT moves Q and DQ across these.
MOVERS = ("Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
#: TensorRT quotes node names between these marks in the plan.
RESERVED = ("[ONNX Layer: ", "\n", "\x1e", "\x1f")


@dataclass(frozen=True)
class QuantizedOp:
    """A MatMul, Gemm or Conv that reads a dequantised tensor, so that the model asks for INT8 or FP8."""

    #: The name under which the plan mentions it.
    name: str
    kind: str
    #: Name and number of elements of its quantised weight; "" and 0 if it has none.
    weight: str
    weight_elements: int
    #: Why TensorRT will not run it in 8 bits, as far as the graph shows it; None if it should.
    hint: str | None


@dataclass(frozen=True)
class Chain:
    """Rule 4, under the names that the plan mentions."""

    #: What computes the activation; "" for an input of the model.
    source: str
    #: Whether that is a normalisation in one node.
    normalised: bool
    #: The Cast behind it; "" if there is none.
    cast: str
    #: Sub, Gather and Mul, as far as they are there.
    nodes: tuple[str, ...]
    quantize: str


@dataclass(frozen=True)
class _Source:
    """Where an operand comes from: its DequantizeLinear, and the movers between that and the op, op first."""

    node: ir.Node
    movers: tuple[ir.Node, ...]
    codes: NDArray[np.generic] | None
    scale: NDArray[np.generic] | None

    @property
    def is_weight(self) -> bool:
        return self.codes is not None


def quantized_ops(model: ir.Model) -> list[QuantizedOp]:
    """Every op that the model asks to run in 8 bits, subgraphs included, in graph order.

    Raises ``ModelError`` if the plan could not be matched with their names: duplicates, or TensorRT's own marks.
    """
    ops = [op for node in model.graph.all_nodes() if (op := _quantized_op(node)) is not None]
    repeated = [name for name, count in Counter(op.name for op in ops).items() if count > 1]
    marked = [op.name for op in ops if any(mark in op.name for mark in RESERVED)]
    if repeated or marked:
        raise ModelError(
            "quantised nodes need unique, plain names, or the plan could not be checked; got "
            f"{', '.join(map(repr, (repeated + marked)[:5]))}. Rename them."
        )
    return ops


def conditioning_chains(model: ir.Model) -> list[Chain]:
    """The chain of every QuantizeLinear that has one, in graph order."""
    nodes = [node for node in model.graph.all_nodes() if op_of(node) == "QuantizeLinear"]
    return [chain for node in nodes if (chain := _chain(node)) is not None]


def fp32_products(model: ir.Model) -> tuple[str, ...]:
    """The nodes that multiply matrices in FP32, quantised or not, as far as the graph tells their types."""
    nodes = (node for node in model.graph.all_nodes() if op_of(node) in ("MatMul", "Gemm"))
    return tuple(plan_name(node) for node in nodes if node.outputs[0].dtype == ir.DataType.FLOAT)


def require_exact(model: ir.Model, *, rtx: bool = True) -> None:
    """Raise ``ModelError`` for Q/DQ that TensorRT refuses or, worse, takes for something else (rules 1 and 2).

    ``rtx``: it is TensorRT-RTX that builds, or may be.
    """
    types = code_types(model)
    if len(mixed := [name.upper() for name, dtype in CODES.items() if dtype in types]) > 1:
        raise ModelError(
            f"the model has {' and '.join(mixed)} codes, and TensorRT takes one of them in a network, embedding tables "
            "included. Quantise all of it to one (--precision)."
        )
    opset = model.opset_imports.get("", 0)
    problems = [text for node in model.graph.all_nodes() for text in _inexact(node, opset, rtx=rtx)]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ModelError(f"this Q/DQ cannot go to TensorRT: {'; '.join(problems[:3])}{more}.")


def _quantized_op(node: ir.Node) -> QuantizedOp | None:
    if op_of(node) not in KINDS:
        return None
    left, right = (_source(value) for value in node.inputs[:2])
    if left is None and right is None:
        return None
    weight = right if right is not None and right.is_weight else left if left is not None and left.is_weight else None
    return QuantizedOp(
        name=plan_name(node),
        kind=node.op_type,
        weight=_name(weight.node.inputs[0]) if weight else "",
        weight_elements=weight.codes.size if weight and weight.codes is not None else 0,
        hint=_hint(node, left, right),
    )


def _chain(quantize: ir.Node) -> Chain | None:
    """Walk back from Q. The order tells the chain from the model's own arithmetic in front of it."""
    found: list[str] = []
    value = quantize.inputs[0]
    for kind in ("Mul", "Gather", "Sub"):
        node = value.producer() if value is not None else None
        if node is not None and op_of(node) == kind and _conditions(node):
            found.insert(0, plan_name(node))
            value = node.inputs[0]
    if not found:
        return None
    source = value.producer() if value is not None else None
    cast = source if source is not None and op_of(source) == "Cast" else None
    if cast is not None and cast.inputs[0] is not None:
        source = cast.inputs[0].producer()
    return Chain(
        source=plan_name(source) if source is not None else "",
        normalised=source is not None and op_of(source).endswith("Normalization"),
        cast=plan_name(cast) if cast is not None else "",
        nodes=tuple(found),
        quantize=plan_name(quantize),
    )


def _conditions(node: ir.Node) -> bool:
    """Is its second operand a constant, one value per channel (the last axis, or axis 1), its result read once?"""
    operand, result = _constant(node.inputs[1]), node.outputs[0]
    if operand is None or operand.ndim == 0 or operand.size != operand.shape[0]:
        return False
    channels = node.op_type != "Gather" or node.attributes.get_int("axis", 0) in (-1, 1)
    return channels and len(result.uses()) == 1 and not result.is_graph_output()


def _source(value: ir.Value | None) -> _Source | None:
    movers: list[ir.Node] = []
    node = value.producer() if value is not None else None
    while node is not None and op_of(node) in MOVERS and node.inputs[0] is not None:
        movers.append(node)
        node = node.inputs[0].producer()
    if node is None or op_of(node) != "DequantizeLinear":
        return None
    return _Source(node, tuple(movers), _weight_codes(node.inputs[0]), _constant(node.inputs[1]))


def _weight_codes(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The constant behind a DequantizeLinear, also if it is still float and goes through a QuantizeLinear."""
    producer = value.producer() if value is not None else None
    if producer is not None and op_of(producer) == "QuantizeLinear":
        value = producer.inputs[0]
    return _constant(value)


def _constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    tensor = get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def _hint(node: ir.Node, left: _Source | None, right: _Source | None) -> str | None:
    if left is None:
        return "its activation (first input) has no QuantizeLinear -> DequantizeLinear"
    if right is None:
        return "its second input is not quantised"
    for source in (left, right):
        if source.scale is None:
            return f"the scale of {source.node.name!r} is computed at run time; it must be a constant"
    if not left.is_weight and left.scale is not None and left.scale.size > 1:
        return f"{left.node.name!r} has {left.scale.size} activation scales; TensorRT takes one per tensor"
    if right.is_weight and right.scale is not None and right.scale.size > 1:
        axis, wanted = _axis_at_op(right), _channel_axis(node, right)
        if axis is not None and axis != wanted:
            return f"the weight scales of {right.node.name!r} run along axis {axis}; output channels are axis {wanted}"
    return None


def _channel_axis(node: ir.Node, weight: _Source) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = node.attributes.get("transB")
    return 0 if transposed is not None and transposed.as_int() else _rank(weight) - 1


def _axis_at_op(source: _Source) -> int | None:
    """The axis of the scales as the op sees it, after transposes; None if a reshape hides it."""
    stated = source.node.attributes.get("axis")
    axis = (1 if stated is None else stated.as_int()) % _rank(source)
    for mover in reversed(source.movers):
        if mover.op_type == "Transpose":
            default = tuple(reversed(range(_rank(source))))
            axis = tuple(mover.attributes.get_ints("perm", default)).index(axis)
        elif mover.op_type not in ("Cast", "Identity"):
            return None
    return axis


def _rank(source: _Source) -> int:
    assert source.codes is not None
    return source.codes.ndim


def _name(value: ir.Value | None) -> str:
    return (value.name if value is not None else None) or ""


def _inexact(node: ir.Node, opset: int, *, rtx: bool) -> Iterator[str]:
    if op_of(node) not in QDQ:
        return
    dtype = code_type(node, opset)
    if dtype is not None and dtype not in CODES.values():
        yield (
            f"{node.op_type} {node.name!r} uses {dtype.name.lower()}; write an int8 zero point of 0"
            + (", and leave biases in float" if dtype == ir.DataType.INT32 else "")
        )
    zero_point = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero_point is not None and np.any(zero_point != 0):
        yield f"{node.op_type} {node.name!r} has a zero point other than 0; quantise symmetrically"
    scale = _constant(node.inputs[1])
    if scale is None:
        return
    single = np.finfo(np.float32)
    if not ((scale >= single.tiny) & (scale <= single.max)).all():  # a subnormal one may be flushed to 0
        yield f"{node.op_type} {node.name!r} has a scale that is zero, negative or not finite in float32"
    if rtx and scale.dtype == np.float16 and scale.size > 1:
        yield (
            f"{node.op_type} {node.name!r} has float16 scales per channel, with which TensorRT-RTX overflows; use "
            "float32 and Casts"
        )
