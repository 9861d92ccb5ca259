"""Fold a conditioning chain into the constants of the op in front of it, where that is exact: fewer nodes are left.

    x * gamma + beta -> Sub(shift) -> Mul(multiplier)   ==   x * (gamma * multiplier) + (beta - shift) * multiplier

Rules:
1. Only where the chain is all that reads the op's output, which is no output of the model: any other reader (the
   residual of a post-LN encoder) wants the numbers as they were.
2. A LayerNormalization over the last axis takes shift and multiplier; so does ``Mul -> Add`` with constant vectors,
   which is how a decomposed one ends. An Add alone takes the shift, a Mul alone a multiplier that no shift precedes.
3. The shift comes first in a chain. Where a Gather follows it, the multiplier has other columns and stays.
4. Constants that others read are left to them: the op gets new ones.
5. An op that took something in stays FP32 (``CONDITIONING``), as LayerNormalization does anyway. FP16 would round
   ``beta - shift`` by up to 2^-11 of its size: where a channel is narrow and far from 0 that is whole INT8 steps, the
   same in every row, while the bias of the GEMM makes up for the exact shift. In FP32 the sum is not rounded before
   the grid at all, which is better than a chain behind an FP16 op.
6. The tensor takes the name of what it replaces, so that no old name stands for new numbers.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import drop_unread, op_of
from calib8.passes.half import CONDITIONING
from calib8.passes.qdq_nodes import Constants


@dataclass(frozen=True)
class _Slot:
    """Where a node reads a constant vector. ``value`` is None for the bias that a LayerNormalization can do without."""

    node: ir.Node
    index: int
    value: ir.Value | None

    @property
    def numbers(self) -> NDArray[np.float32]:
        if self.value is None:
            return np.zeros(1, np.float32)
        assert self.value.const_value is not None
        return self.value.const_value.numpy()


@dataclass(frozen=True)
class _Affine:
    """``x * factor + offset``, as far as there are constants for it."""

    factor: _Slot | None
    offset: _Slot | None


def fold_conditioning(model: ir.Model) -> ir.Model:
    """Fold what ``condition`` wrote, in place, and return the model. Call it before ``to_half`` (rule 5)."""
    chained = [node for node in model.graph if node.meta.get(CONDITIONING)]
    constants = Constants(model.graph)
    for kind, fold in (("Sub", _fold_shift), ("Mul", _fold_multiplier)):
        for node in chained:
            if node.op_type == kind and (affine := _affine(node)) is not None:
                fold(constants, node, affine)
    return model


def _fold_shift(constants: Constants, node: ir.Node, affine: _Affine) -> None:
    if affine.offset is not None:
        _replace(constants, affine.offset, affine.offset.numbers - _vector(node))
        _remove(constants.graph, node)


def _fold_multiplier(constants: Constants, node: ir.Node, affine: _Affine) -> None:
    """A missing offset is 0 whatever the factor; an offset without a factor would be scaled alone."""
    if affine.factor is None:
        return
    for slot in (affine.factor, affine.offset):
        if slot is not None and slot.value is not None:
            _replace(constants, slot, slot.numbers * _vector(node))
    _remove(constants.graph, node)


def _affine(node: ir.Node) -> _Affine | None:
    """The op in front of a Sub or Mul of a chain, rules 1 and 2; None if there is none to fold into."""
    op, width = _only_read_by_chain(node.inputs[0]), len(_vector(node))
    if op is None:
        return None
    if op.op_type == "LayerNormalization":
        return _normalisation(op, width)
    slot = _slot(op, width)
    if slot is None or op.op_type == "Mul":
        return None if slot is None else _Affine(slot, None)
    before = _only_read_by_chain(op.inputs[1 - slot.index])
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


def _only_read_by_chain(value: ir.Value | None) -> ir.Node | None:
    """What computes ``value``, if one node alone reads it (rule 1)."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return value.producer()


def _vector(node: ir.Node) -> NDArray[np.float32]:
    """The shift or multiplier of a node that ``condition`` wrote."""
    operand = node.inputs[1]
    assert operand is not None
    assert operand.const_value is not None
    return operand.const_value.numpy()


def _replace(constants: Constants, slot: _Slot, numbers: NDArray[np.float32]) -> None:
    """Rules 4 and 5."""
    node, old = slot.node, slot.value
    name = old.name if old is not None else f"{node.outputs[0].name}_bias"
    new = constants.new(f"{name}_folded", numbers.astype(np.float32))
    if slot.index == len(node.inputs):
        node.resize_inputs(slot.index + 1)
    node.replace_input_with(slot.index, new)
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
