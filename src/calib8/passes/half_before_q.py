"""FP32 that Q reads beside others is stored as FP16, so that TensorRT does not store it as it is.

    norm (FP32) -> Q                                becomes    norm (FP32) -> Cast to FP16 -> Cast to FP32 -> Q
              \\-> Mul -> Cast to FP16 -> Add                                           \\-> Mul (FP16) -> Add

The norm of a transformer's layer is computed in FP32 (``half``, rule 7), and both Q and the residual read it. From the
left form TensorRT 10.6 makes a kernel that writes INT8 and FP32, which the next norm reads again. From the right one it
writes INT8 and FP16, half of that, as the norms of a float engine do. Q's step is far above what FP16 rounds off. A Mul
that gives a residual back what smoothing took computes in FP16: for one in FP32, FP32 would be stored again.

Rules:
1. Only what a node computes in FP32 and Q and something else read, and that is no output of the model.
2. All who read it beside Q take it as FP16, at once or behind a Mul or Add of a constant that FP16 holds. What
   calibration saw beyond FP16, what becomes an integer and what is normalised again is read as FP32 (``half``), and
   stays FP32.
3. Only where FP16 holds ``ROOM`` times what Q's grid covers, and Q's smallest step is as many of FP16's.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.codes import precision_of
from calib8.graph.values import drop_unread, op_of
from calib8.passes.half_rules import FP16, FP32, LARGEST, SMALLEST
from calib8.passes.qdq_nodes import Constants, cast_behind
from calib8.precision import GRIDS, Grid

#: A grid may clip, and data of another day reach farther.
ROOM = 16
#: FP16's smallest number of full precision.
NORMAL = 2.0**-14


def half_before_q(model: ir.Model) -> bool:
    """Rewrite every such value of ``model`` in place, and tell whether there are any."""
    graph, constants, grid = model.graph, Constants(model.graph), GRIDS[precision_of(model)]
    quantised = {value for node in graph if (value := _quantised(node, grid)) is not None}
    found = set(filter(_others_take_half, quantised))
    for value in sorted(found, key=lambda value: value.name or ""):
        uses = list(value.uses())
        half = cast_behind(constants, value, FP16)
        back = cast_behind(constants, half, FP32)
        for reader, index in uses:
            if _to_half(reader):
                reader.outputs[0].replace_all_uses_with(half)
                graph.remove(reader, safe=True)
            elif _indifferent(reader):
                reader.replace_input_with(index, back)
            else:
                _compute_in_half(constants, reader, index, half)
    return bool(found)


def _quantised(node: ir.Node, grid: Grid) -> ir.Value | None:
    """The FP32 that ``node`` quantises, if a node computes it and FP16 holds it (rule 3)."""
    value = node.inputs[0] if op_of(node) == "QuantizeLinear" else None
    scale = node.inputs[1].const_value if value is not None and node.inputs[1] is not None else None
    producer = value.producer() if value is not None else None
    if value is None or scale is None or producer is None or op_of(producer) == "Cast" or value.dtype != FP32:
        return None
    step, largest = grid.step(0) * float(scale.numpy().min()), grid.largest * float(scale.numpy().max())
    return value if step >= ROOM * SMALLEST and ROOM * largest < LARGEST else None


def _others_take_half(value: ir.Value) -> bool:
    """Rules 1 and 2."""
    others = [reader for reader, _ in value.uses() if not _indifferent(reader)]
    return bool(others) and not value.is_graph_output() and all(map(_takes_half, others))


def _indifferent(node: ir.Node) -> bool:
    """Is it Q, or does it tell no more than sizes?"""
    only_moves = op_of(node) == "Transpose" and not node.outputs[0].is_graph_output()
    return op_of(node) in ("QuantizeLinear", "Shape") or (
        only_moves and all(op_of(reader) == "Shape" for reader, _ in node.outputs[0].uses())
    )


def _takes_half(node: ir.Node) -> bool:
    """Rule 2. What stands in the body of an If or a Loop does not: it keeps its FP32."""
    if any(value.graph is not node.graph for value in node.inputs if value is not None and value.const_value is None):
        return False
    if _to_half(node):
        return True
    constants = [value.const_value for value in node.inputs if value is not None and value.const_value is not None]
    scales = op_of(node) in ("Add", "Mul") and len(constants) == 1 and _fits(constants[0].numpy())
    result = node.outputs[0]
    readers = [reader for reader, _ in result.uses()]
    return scales and bool(readers) and not result.is_graph_output() and all(map(_takes_half, readers))


def _fits(array: NDArray[Any]) -> bool:
    """Whether FP16 holds it in full precision."""
    magnitudes = np.abs(array[array != 0])
    return bool(np.all((magnitudes >= NORMAL) & (magnitudes <= LARGEST)))


def _compute_in_half(constants: Constants, node: ir.Node, index: int, half: ir.Value) -> None:
    """``node``, which takes FP16 behind a constant, on ``half``, and all like it behind it."""
    constant = node.inputs[1 - index]
    assert constant is not None
    assert constant.const_value is not None
    name = f"{constant.name}_as_float16"
    node.replace_input_with(index, half)
    node.replace_input_with(1 - index, constants.new(name, constant.const_value.numpy().astype(np.float16)))
    if constant.is_initializer():
        drop_unread(constants.graph, constant)
    result = node.outputs[0]
    result.type = ir.TensorType(FP16)
    for reader, slot in list(result.uses()):
        if _to_half(reader):
            reader.outputs[0].replace_all_uses_with(result)
            constants.graph.remove(reader, safe=True)
        else:
            _compute_in_half(constants, reader, slot, result)


def _to_half(node: ir.Node) -> bool:
    """Is it a Cast to FP16 that can go? An output of the model keeps its name."""
    to_half = op_of(node) == "Cast" and node.attributes.get_int("to") == FP16
    return to_half and not node.outputs[0].is_graph_output()
