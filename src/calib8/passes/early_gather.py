"""Repeat the channels that INT8 splits where it costs least; every code that a GEMM multiplies stays what it was.

    GEMM -> elementwise ops -> Gather(index) -> Mul -> Q      becomes   GEMM with repeated columns -> … -> Mul -> Q
    x -> Gather(index) -> Mul -> Q -> DQ                      becomes   x -> Mul -> Q -> Gather(index) -> DQ

``condition`` writes the left forms, which TensorRT fuses. CPU runtimes move the whole FP32 tensor for a Gather, and it
keeps them from writing codes straight out of the kernel in front.

Rules:
1. Columns of the GEMM before are repeated if nothing but elementwise ops lies between, nothing else reads what they
   compute, and the GEMM's weight, in INT8 with a scale per column, grows by no more than ``MOST_COLUMNS``.
2. Otherwise codes are gathered instead of floats, a quarter of the bytes: if all copies of a channel have the same
   multiplier, the scale is one number, and nothing else reads the values between.
3. Only a Gather along the last axis whose constant index holds every channel.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.branch import axis_of_columns, branch_of
from calib8.graph.values import drop_unread
from calib8.passes.qdq_nodes import Constants

#: How many times as many columns a GEMM may get (rule 1).
MOST_COLUMNS = 1.125


def early_gather(model: ir.Model) -> ir.Model:
    """Move every such Gather of ``model`` in place, and return the model."""
    for node in list(model.graph):
        if node.op_type == "Gather" and (index := _index(node)) is not None:
            _ = into_gemm(model.graph, node, index) or _behind_codes(model.graph, node, index)
    return model


def _index(node: ir.Node) -> NDArray[np.int64] | None:
    """The channels that ``node`` gathers; None if rule 3 does not hold."""
    x, chosen = node.inputs
    if x is None or x.shape is None or chosen is None or chosen.const_value is None or x.is_graph_input():
        return None
    rank, index = len(x.shape), chosen.const_value.numpy()
    last = node.attributes.get_int("axis", 0) in (-1, rank - 1)
    size = x.shape[-1] if rank else None
    if not last or rank < 2 or index.ndim != 1 or not isinstance(size, int):
        return None
    return index if np.array_equal(np.unique(index), np.arange(size)) else None


def into_gemm(graph: ir.Graph, gather: ir.Node, index: NDArray[np.int64], *, always: bool = False) -> bool:
    """Rule 1; ``always``: of any number of columns, and of a float weight, too. False if it does not hold."""
    source, output = gather.inputs[0], gather.outputs[0]
    assert source is not None
    channels = int(index.max()) + 1  # rule 3: all of them are there
    branch = branch_of(source, channels)
    if branch is None or not branch.closed(gather) or output.is_graph_output():
        return False
    axis = axis_of_columns(branch.gemm)
    dequantise = _dequantised(branch.gemm, channels, axis)
    in_float = dequantise is None and always and _is_matrix(branch.gemm.inputs[1], channels, axis)
    if (dequantise is None and not in_float) or (len(index) > MOST_COLUMNS * channels and not always):
        return False
    constants = Constants(graph)
    holder, slots = (branch.gemm, [1]) if dequantise is None else (dequantise, [*range(len(dequantise.inputs))])
    for slot in slots:
        weight = holder.inputs[slot]
        _repeat(constants, holder, slot, index, axis if weight is not None and _rank(weight) == 2 else -1)
    for node, first in ((branch.gemm, 2), *((node, 0) for node in branch.nodes)):
        for slot, operand in enumerate(node.inputs[first:], first):
            if operand is not None and operand.const_value is not None and operand.const_value.size > 1:
                _repeat(constants, node, slot, index, -1)
    if dequantise is not None:
        _widen(dequantise.outputs[0], axis, len(index))
    for node in (branch.gemm, *branch.nodes):
        _widen(node.outputs[0], -1, len(index))
    output.replace_all_uses_with(source)
    _remove(graph, gather)
    return True


def _dequantised(gemm: ir.Node, channels: int, columns: int) -> ir.Node | None:
    """The DequantizeLinear of the GEMM's weight, if it is of rule 1 and has so many ``columns`` along that axis."""
    weight = gemm.inputs[1]
    node = weight.producer() if weight is not None else None
    if node is None or node.op_type != "DequantizeLinear" or len(node.outputs[0].uses()) > 1:
        return None
    if any(part is None or part.const_value is None for part in node.inputs):
        return None
    codes, *rest = (part.const_value.shape for part in node.inputs if part is not None and part.const_value is not None)
    axis = node.attributes.get_int("axis", 1)
    per_column = len(codes) == 2 and codes[columns] == channels and axis in (columns, columns - 2)
    per_column = per_column and all(shape == (channels,) for shape in rest)
    return node if per_column and "block_size" not in node.attributes else None


def _is_matrix(weight: ir.Value | None, channels: int, columns: int) -> bool:
    constant = weight.const_value if weight is not None else None
    return constant is not None and len(constant.shape) == 2 and constant.shape[columns] == channels


def _rank(constant: ir.Value) -> int:
    return len(constant.const_value.shape) if constant.const_value is not None else 0


def _repeat(constants: Constants, reader: ir.Node, slot: int, index: NDArray[np.int64], axis: int) -> None:
    value = reader.inputs[slot]
    assert value is not None
    assert value.const_value is not None
    array = np.ascontiguousarray(value.const_value.numpy().take(index, axis))
    reader.replace_input_with(slot, constants.new(f"{value.name}_repeated", array))
    if value.is_initializer():
        drop_unread(constants.graph, value)


def _widen(value: ir.Value, axis: int, size: int) -> None:
    if value.shape is not None:
        sizes = [*value.shape]
        sizes[axis] = size
        value.shape = ir.Shape(sizes)


def _behind_codes(graph: ir.Graph, gather: ir.Node, index: NDArray[np.int64]) -> bool:
    """Rule 2. False if it does not hold."""
    source, reader = gather.inputs[0], _only_reader(gather)
    multiply = reader if reader is not None and reader.op_type == "Mul" else None
    quantise = _only_reader(multiply) if multiply is not None else reader
    if quantise is None or quantise.op_type != "QuantizeLinear" or quantise.outputs[0].is_graph_output():
        return False
    if not _one_scale(quantise):
        return False
    constants = Constants(graph)
    if multiply is None:
        quantise.replace_input_with(0, source)
    elif not _multiply_once(constants, multiply, gather, index):
        return False
    codes, shape = quantise.outputs[0], gather.outputs[0].shape
    few = ir.Value(name=constants.free(f"{codes.name}_once"), type=codes.type, shape=source.shape if source else None)
    moved = ir.node("Gather", [codes, gather.inputs[1]], {"axis": -1}, outputs=[few], name=f"{gather.name}_codes")
    codes.replace_all_uses_with(few)
    moved.replace_input_with(0, codes)
    few.shape, codes.shape = shape, few.shape
    graph.insert_after(quantise, moved)
    _remove(graph, gather)
    return True


def _multiply_once(constants: Constants, multiply: ir.Node, gather: ir.Node, index: NDArray[np.int64]) -> bool:
    """Multiply what ``gather`` reads instead. False if copies of a channel have multipliers of their own."""
    slot = int(multiply.inputs[0] is gather.outputs[0])
    own = multiply.inputs[slot]
    if own is None or own.const_value is None or own.const_value.shape != index.shape:
        return False
    repeated = own.const_value.numpy()
    once = np.empty(int(index.max()) + 1, repeated.dtype)
    once[index] = repeated
    if not np.array_equal(once[index], repeated):
        return False
    multiply.replace_input_with(slot, constants.new(f"{own.name}_once", once))
    multiply.replace_input_with(1 - slot, gather.inputs[0])
    multiply.outputs[0].shape = gather.inputs[0].shape if gather.inputs[0] is not None else None
    if own.is_initializer():
        drop_unread(constants.graph, own)
    return True


def _only_reader(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    return uses[0][0] if len(uses) == 1 and not node.outputs[0].is_graph_output() else None


def _one_scale(quantise: ir.Node) -> bool:
    return all(
        part is not None and part.const_value is not None and part.const_value.size == 1 for part in quantise.inputs[1:]
    )


def _remove(graph: ir.Graph, gather: ir.Node) -> None:
    chosen = gather.inputs[1]
    graph.remove(gather, safe=True)
    if chosen is not None and chosen.is_initializer():
        drop_unread(graph, chosen)
