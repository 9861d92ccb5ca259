"""Fold a conditioning chain into the constants of an op in front of it, where that is exact: fewer nodes are left.

    x * gamma + beta -> Sub(shift) -> Mul(multiplier)   ==   x * (gamma * multiplier) + (beta - shift) * multiplier

Rules:
1. Where the chain is all that reads the op's output, which is no output of the model, that is all: any other reader
   (the residual of a post-LN encoder) wants the numbers as they were. With ``everywhere`` others get them back by a
   Mul and an Add of their own: what stands beside Q costs a kernel that is there anyway less than what stands before Q.
   A MatMul with a constant float weight, as a side branch has, needs neither: it undoes both in its rows and its bias.
2. A LayerNormalization over the last axis takes shift and multiplier; so does ``Mul -> Add`` with constant vectors,
   which is how a decomposed one ends. An Add alone takes the shift, a Mul alone a multiplier that no shift precedes.
3. The shift comes first in a chain. Where a Gather follows it, the multiplier has other columns and stays.
4. Constants that others read are left to them: the op gets new ones.
5. What takes something in as an elementwise op stays FP32 (``CONDITIONING``), as LayerNormalization does anyway. FP16
   would round ``beta - shift`` by up to 2^-11 of its size: where a channel is narrow and far from 0 that is whole INT8
   steps, the same in every row, while the bias of the GEMM makes up for the exact shift. In FP32 the sum is not rounded
   before the grid at all, which is better than a chain behind an FP16 op.
6. The tensor takes the name of what it replaces, so that no old name stands for new numbers. What others get back
   keeps the old name.
7. With ``everywhere`` a GEMM takes them, too, into its bias and the scale of its INT8 columns, whose codes stay what
   they are; and what only moves channels may lie between (``graph/channels.py``): so attention's output is
   conditioned in the product that gives V.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.channels import Origin, origin_of
from calib8.graph.values import drop_unread, name_of, op_of
from calib8.passes.half import CONDITIONING
from calib8.passes.qdq_nodes import Constants

Floats32 = NDArray[np.float32]
#: Readers that do not look at numbers.
INDIFFERENT = ("Shape", "Size")


@dataclass(frozen=True)
class _Slot:
    """Where a node reads constants, one for each channel along the last axis. ``value`` is None for the bias that a
    LayerNormalization can do without."""

    node: ir.Node
    index: int
    value: ir.Value | None
    elementwise: bool = True

    @property
    def numbers(self) -> Floats32:
        if self.value is None:
            return np.zeros(1, np.float32)
        assert self.value.const_value is not None
        return self.value.const_value.numpy()


@dataclass(frozen=True)
class _Affine:
    """``x * factor + offset``, as far as there are constants for it."""

    factor: _Slot | None
    offset: _Slot | None


@dataclass(frozen=True)
class _Rows:
    """The constant float weight of a MatMul, and the bias that is added to what it gives."""

    weight: _Slot
    bias: _Slot | None


@dataclass(frozen=True)
class _Target:
    """Where a chain behind a value can be folded: into ``affine``, which gives ``origin``.

    ``others`` read the value as well: nodes, and the number of the input.
    """

    affine: _Affine
    origin: Origin
    others: list[tuple[ir.Node, int]]

    def parted(self, kind: str) -> tuple[list["_Rows"], list[tuple[ir.Node, int]]]:
        """Of the ``others``: weights that undo a ``Sub`` or ``Mul``, and readers that need a node to undo it."""
        undoing, restored = [], []
        for op, index in self.others:
            if rows := _undoing(kind, op, index, len(self.origin.order)):
                undoing.append(rows)
            else:
                restored.append((op, index))
        return undoing, restored

    def takes(self, kind: str) -> bool:
        """Whether a ``Sub`` or a ``Mul`` goes in."""
        if self.origin.moved and self.parted(kind)[1]:
            return False  # they would have to get back what changes on its way
        if kind == "Sub":
            return self.affine.offset is not None and self.origin.adds
        return self.affine.factor is not None  # a missing offset is 0; an offset without a factor would be scaled alone


@dataclass(frozen=True)
class Foldable:
    """Which ops of a chain leave nothing in front of Q."""

    shift: bool = False
    multiplier: bool = False


def foldable(value: ir.Value, width: int, readers: Collection[ir.Node]) -> Foldable:
    """What of a chain between ``value``, ``width`` channels wide, and its ``readers`` can be folded ``everywhere``.

    Rule 1 costs others a Mul; a shift would cost an Add more.
    """
    target = _target(value, width, readers, gemms=True)
    if target is None:
        return Foldable()
    return Foldable(shift=target.takes("Sub") and not target.others, multiplier=target.takes("Mul"))


def fold_conditioning(model: ir.Model, *, everywhere: bool = False) -> ir.Model:
    """Fold what ``condition`` wrote, in place, and return the model. Call it before ``to_half`` (rule 5)."""
    chained = [node for node in model.graph if node.meta.get(CONDITIONING)]
    constants = Constants(model.graph)
    for kind in ("Sub", "Mul"):
        for node in chained:
            if node.op_type != kind or _vector(node).ndim > 1:
                continue  # a Conv's, whose channels are not the last axis
            target = _target(_first(node), len(_vector(node)), [node], gemms=everywhere)
            if target is None or not target.takes(kind):
                continue
            if everywhere or not (target.others or target.origin.moved):
                _fold(constants, node, target)
    return model


def _fold(constants: Constants, node: ir.Node, target: _Target) -> None:
    numbers = _vector(node)
    own = numbers[target.origin.order]
    factor, offset = target.affine.factor, target.affine.offset
    if node.op_type == "Sub":
        assert offset is not None
        _replace(constants, offset, offset.numbers - own)
    else:
        for slot in (factor, offset):
            if slot is not None and slot.value is not None:
                _replace(constants, slot, slot.numbers * own)
    for value in target.origin.moved:  # rule 6
        value.name = constants.free(f"{value.name}_folded")
    undoing, restored = target.parted(node.op_type)
    for rows in undoing:
        if node.op_type == "Mul":
            _replace(constants, rows.weight, rows.weight.numbers / numbers[:, None])
        elif rows.bias is not None:
            _replace(constants, rows.bias, rows.bias.numbers + numbers @ rows.weight.numbers)
    if restored:
        _restore(constants, node, restored)
    _remove(constants.graph, node)


def _undoing(kind: str, op: ir.Node, index: int, width: int) -> _Rows | None:
    """Where ``op``, which reads a value ``width`` channels wide, undoes a ``Sub`` or ``Mul`` by itself (rule 1)."""
    weight = op.inputs[1] if op_of(op) == "MatMul" and index == 0 else None
    if weight is None or weight.const_value is None or weight.const_value.dtype != ir.DataType.FLOAT:
        return None
    shape = weight.const_value.shape.numpy()
    if len(shape) != 2 or shape[0] != width:
        return None
    uses = list(op.outputs[0].uses())
    reader = uses[0][0] if len(uses) == 1 and not op.outputs[0].is_graph_output() else None
    bias = _slot(reader, shape[1]) if reader is not None and op_of(reader) == "Add" else None
    if kind == "Sub" and bias is None:
        return None
    return _Rows(_Slot(op, 1, weight, elementwise=False), bias and replace(bias, elementwise=False))


def _restore(constants: Constants, node: ir.Node, others: list[tuple[ir.Node, int]]) -> None:
    """Undo ``node`` for the ``others`` who read what it reads (rule 1)."""
    value, numbers = _first(node), _vector(node)
    undone = ("Add", numbers) if node.op_type == "Sub" else ("Mul", 1 / numbers)
    name = name_of(value)
    restored = ir.Value(name=name, type=value.type, shape=value.shape)
    value.name = constants.free(f"{name}_folded")
    constant = constants.new(f"{name}_{'shift' if undone[0] == 'Add' else 'inverse'}", undone[1].astype(np.float32))
    undo = ir.node(undone[0], [value, constant], outputs=[restored], name=constants.free(f"{name}_Restored"))
    undo.meta[CONDITIONING] = True
    producer = value.producer()
    assert producer is not None
    constants.graph.insert_after(producer, undo)
    for reader, index in others:
        reader.replace_input_with(index, restored)


def _target(value: ir.Value, width: int, readers: Collection[ir.Node], *, gemms: bool) -> _Target | None:
    """Where a chain can be folded that stands between ``value`` and ``readers``; None if nowhere."""
    origin = origin_of(value, width)
    affine = _affine(origin.value, width, gemms=gemms)
    if affine is None or value.is_graph_output():
        return None
    others = [(op, i) for op, i in value.uses() if op not in readers and op.op_type not in INDIFFERENT]
    return _Target(affine, origin, others)


def _affine(value: ir.Value, width: int, *, gemms: bool) -> _Affine | None:
    """The op that gives ``value``, rule 2 and with ``gemms`` rule 7; None if nothing can be folded into it."""
    op = value.producer()
    if op is None:
        return None
    if op.op_type == "LayerNormalization":
        return _normalisation(op, width)
    if gemms and (product := _gemm(op, width)) is not None:
        return product
    slot = _slot(op, width)
    if slot is None or op.op_type == "Mul":
        return None if slot is None else _Affine(slot, None)
    before = _only_read_once(op.inputs[1 - slot.index])
    if gemms and before is not None and before.op_type == "MatMul" and (product := _gemm(before, width)) is not None:
        return _Affine(product.factor, _Slot(op, slot.index, slot.value, elementwise=False))
    factor = _slot(before, width) if before is not None and before.op_type == "Mul" else None
    return _Affine(factor, slot)


def _normalisation(op: ir.Node, width: int) -> _Affine | None:
    axis, shape = op.attributes.get_int("axis", -1), op.outputs[0].shape
    if axis != -1 and (shape is None or axis != len(shape) - 1):
        return None
    beta = op.inputs[2] if len(op.inputs) > 2 else None
    if not _is_vector(op.inputs[1], width) or not (beta is None or _is_vector(beta, width)):
        return None
    return _Affine(_Slot(op, 1, op.inputs[1]), _Slot(op, 2, beta))


def _gemm(op: ir.Node, width: int) -> _Affine | None:
    """The columns of a MatMul or Gemm: the scale of its codes, or the float weight itself, and the C of a Gemm."""
    if op_of(op) not in ("MatMul", "Gemm"):
        return None
    weight, bias = op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None
    alone = op.attributes.get_float("alpha", 1.0) == op.attributes.get_float("beta", 1.0) == 1.0
    if weight is None or not alone or not (bias is None or _is_vector(bias, width)):
        return None
    dequantise = weight.producer()
    columns = 0 if op.attributes.get_int("transB", 0) else 1
    if dequantise is not None and dequantise.op_type == "DequantizeLinear" and len(weight.uses()) == 1:
        factor = _Slot(dequantise, 1, dequantise.inputs[1], elementwise=False)
        if not _is_vector(factor.value, width) or dequantise.attributes.get_int("axis", 1) != columns:
            return None
    elif weight.const_value is not None and weight.const_value.dtype == ir.DataType.FLOAT:
        shape = weight.const_value.shape
        if len(shape) != 2 or shape[1] != width or not columns:
            return None
        factor = _Slot(op, 1, weight, elementwise=False)
    else:
        return None
    return _Affine(factor, None if bias is None else _Slot(op, 2, bias, elementwise=False))


def _slot(op: ir.Node, width: int) -> _Slot | None:
    """The constant side of an Add or Mul whose other side is none."""
    if op_of(op) not in ("Add", "Mul"):
        return None
    sides = [index for index, value in enumerate(op.inputs) if _is_vector(value, width)]
    return _Slot(op, sides[0], op.inputs[sides[0]]) if len(sides) == 1 else None


def _is_vector(value: ir.Value | None, width: int) -> bool:
    """Is it an FP32 constant with one number for each channel?"""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return False
    shape = value.const_value.numpy().shape
    return len(shape) > 0 and shape[-1] == value.const_value.size == width


def _only_read_once(value: ir.Value | None) -> ir.Node | None:
    """What computes ``value``, if one node alone reads it."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return value.producer()


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _vector(node: ir.Node) -> Floats32:
    """The shift or multiplier of a node that ``condition`` wrote."""
    operand = node.inputs[1]
    assert operand is not None
    assert operand.const_value is not None
    return operand.const_value.numpy()


def _replace(constants: Constants, slot: _Slot, numbers: Floats32) -> None:
    """Rules 4 and 5."""
    node, old = slot.node, slot.value
    name = old.name if old is not None else f"{node.outputs[0].name}_bias"
    new = constants.new(f"{name}_folded", numbers.astype(np.float32))
    if slot.index == len(node.inputs):
        node.resize_inputs(slot.index + 1)
    node.replace_input_with(slot.index, new)
    if slot.elementwise:
        node.meta[CONDITIONING] = True
    if old is not None and old.is_initializer():
        drop_unread(constants.graph, old)


def _remove(graph: ir.Graph, node: ir.Node) -> None:
    """Take ``node`` out of the chain; rule 6."""
    (before, operand), result = node.inputs, node.outputs[0]
    assert before is not None
    assert operand is not None
    result.replace_all_uses_with(before, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    before.name = result.name
    drop_unread(graph, operand)
