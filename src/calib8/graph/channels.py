"""Where the channels of a tensor come from, through ops that only move them or mix positions.

Rules, from a value back to what gives it; a channel keeps all its numbers to itself on each of these:
1. Reshape that parts or joins the trailing axes over which the channels run (heads and their width).
2. Transpose.
3. MatMul of two computed operands, where channels run over the columns (attention's weights times V): the second
   operand has the same channels, unless it is shared by axes that the channels run over (heads that share V). A factor
   of a channel passes any such product; what is added to it only where the rows of the first operand sum to 1, as those
   of a Softmax over the last axis do.
4. Each value on the way is read by nothing else, and is no output of the model.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import op_of

#: The channel that each place of a tensor belongs to, of size 1 along axes that do not matter.
Layout = NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """``value``, of whose last axis place j holds channel ``order[j]``; ``moved`` are the values from the first asked
    for to it, itself left out if it is the same; ``adds``: whether a constant of a channel passes as well."""

    value: ir.Value
    order: NDArray[np.int64]
    moved: tuple[ir.Value, ...]
    adds: bool


def origin_of(value: ir.Value, channels: int) -> Origin:
    """As far back as the rules go and the channels are the last axis alone; ``value`` itself if it has unknown rank."""
    found = Origin(value, np.arange(channels), (), adds=True)
    if value.shape is None:
        return found
    layout: Layout = np.arange(channels).reshape([1] * (len(value.shape) - 1) + [channels])
    way: list[ir.Value] = []
    adds = True
    while (step := _step(value, layout)) is not None:
        way.append(value)
        value, layout, kept = step
        if not _alone(value):
            break
        adds &= kept
        if layout.shape[-1] == layout.size:
            found = Origin(value, layout.reshape(-1), (*way, value), adds)
    return found


def _alone(value: ir.Value) -> bool:
    readers = [reader for reader, _ in value.uses() if reader.op_type not in ("Shape", "Size")]
    return len(readers) == 1 and not value.is_graph_output()


def _step(value: ir.Value, layout: Layout) -> tuple[ir.Value, Layout, bool] | None:
    """The operand that ``value`` has its channels from, their layout in it, and whether sums pass; None at the end."""
    node = value.producer()
    kind = op_of(node) if node is not None else ""
    source = node.inputs[1 if kind == "MatMul" else 0] if node is not None and node.inputs else None
    if node is None or source is None or source.shape is None:
        return None
    if kind == "Reshape":
        before = _unshaped(layout, value.shape, source.shape)
        return None if before is None else (source, before, True)
    if kind == "Transpose":
        permutation = node.attributes.get_ints("perm", list(reversed(range(layout.ndim))))
        return source, layout.transpose(np.argsort(permutation)), True
    if kind == "MatMul" and _passes(layout, source):
        return source, layout, _sums_to_one(node.inputs[0])
    return None


def _unshaped(layout: Layout, after: ir.Shape | None, before: ir.Shape) -> Layout | None:
    """Rule 1: row by row, the last numbers of both are the same, as far back as both have an axis that begins there."""
    first = next((axis for axis, size in enumerate(layout.shape) if size > 1), layout.ndim - 1)
    parts = layout.shape[first:]
    if len(parts) > 1 and (after is None or list(after[first:]) != list(parts)):
        return None  # an axis among them over which the channels do not run
    trailing: list[int] = []
    for size in reversed(list(before)):
        if math.prod(trailing) >= layout.size or not isinstance(size, int):
            break
        trailing.insert(0, size)
    if math.prod(trailing) != layout.size:
        return None
    return layout.reshape([1] * (len(before) - len(trailing)) + trailing)


def _passes(layout: Layout, operand: ir.Value) -> bool:
    """Rule 3: do the channels run over columns, and has ``operand`` the axes of its own that they run over besides?"""
    node = operand.producer()
    if node is None or op_of(node) == "DequantizeLinear" or operand.shape is None:
        return False  # a weight
    if len(operand.shape) != layout.ndim or layout.shape[-2] != 1:
        return False
    return all(size in (1, own) for size, own in zip(layout.shape[:-2], operand.shape, strict=False))


def _sums_to_one(operand: ir.Value | None) -> bool:
    node = operand.producer() if operand is not None else None
    if node is None or op_of(node) != "Softmax" or operand is None:
        return False
    rank = len(operand.shape) if operand.shape is not None else None
    return node.attributes.get_int("axis", -1) in (-1, None if rank is None else rank - 1)
