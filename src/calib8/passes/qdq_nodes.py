"""The two building blocks of explicit quantisation: ``x -> Q -> DQ`` and ``initializer of codes -> DQ``."""

from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.codes import CODES
from calib8.graph.values import insert_behind, op_of
from calib8.numerics import Codes, dtype_of, scale_of
from calib8.precision import INT8, Grid


class Constants:
    """Adds initializers to a graph under names that nothing in it has yet."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._taken |= {value.name for value in graph.inputs}

    def new(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """An initializer called ``name``, or ``name_2`` and so on where that is taken."""
        free = self.free(name)
        value = ir.val(free, const_value=ir.tensor(array, name=free))
        self.graph.register_initializer(value)
        return value

    def free(self, name: str) -> str:
        """A name that is now reserved."""
        chosen = next(c for number in count(1) if (c := name if number == 1 else f"{name}_{number}") not in self._taken)
        self._taken.add(chosen)
        return chosen


def cast_behind(constants: Constants, value: ir.Value, to: ir.DataType) -> ir.Value:
    """``value`` in another type, cast right behind what computes it."""
    name = constants.free(f"{value.name}_as_{to.name.lower()}")
    output = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
    node = ir.node("Cast", [value], {"to": int(to)}, outputs=[output], name=f"{name}_Cast")
    insert_behind(constants.graph, value, node)
    return output


def quantised_activation(constants: Constants, value: ir.Value, amax: float, grid: Grid = INT8) -> ir.Value:
    """``value -> Q -> DQ`` right behind the producer of ``value``: one constant scale, zero point 0 written out.

    A pair of this scale that is there already is it: readers of different kinds, such as a depthwise convolution and
    one of 1x1, are quantised one after the other, and each Q is a kernel.
    """
    graph, name, scale = constants.graph, value.name, np.asarray(scale_of(amax, grid), np.float32)
    if (known := _known_pair(value, scale, dtype_of(grid))) is not None:
        return known
    scaling = [
        constants.new(f"{name}_scale", scale),
        constants.new(f"{name}_zero_point", np.zeros((), dtype_of(grid))),
    ]
    codes = CODES[grid.precision]
    q = _node(constants, "QuantizeLinear", [value, *scaling], f"{name}", codes, value.shape)
    dq = _node(constants, "DequantizeLinear", [q.outputs[0], *scaling], f"{name}", ir.DataType.FLOAT, value.shape)
    insert_behind(graph, value, [q, dq])
    return dq.outputs[0]


def _known_pair(value: ir.Value, scale: NDArray[np.float32], dtype: np.dtype[Any]) -> ir.Value | None:
    for quantise in [reader for reader, _ in value.uses() if op_of(reader) == "QuantizeLinear"]:
        known, zero = (one.const_value if one is not None else None for one in quantise.inputs[1:3])
        if known is None or zero is None or zero.numpy().dtype != dtype or not np.array_equal(known.numpy(), scale):
            continue
        return next((dq.outputs[0] for dq, _ in quantise.outputs[0].uses() if op_of(dq) == "DequantizeLinear"), None)
    return None


def dequantised_codes(
    constants: Constants, name: str, codes: Codes, scale: NDArray[np.float32], axis: int, before: ir.Node
) -> ir.Value:
    """``initializer of codes -> DQ`` with one scale per index of ``axis``, placed before a reader."""
    inputs = [
        constants.new(f"{name}_quantized", codes),
        constants.new(f"{name}_scale", scale),
        constants.new(f"{name}_zero_point", np.zeros(scale.shape, codes.dtype)),
    ]
    shape = ir.Shape(codes.shape)
    dq = _node(constants, "DequantizeLinear", inputs, name, ir.DataType.FLOAT, shape, axis=axis)
    constants.graph.insert_before(before, dq)
    return dq.outputs[0]


def _node(
    constants: Constants,
    op_type: str,
    inputs: list[ir.Value],
    tensor: str,
    dtype: ir.DataType,
    shape: ir.Shape | None,
    **attributes: int,
) -> ir.Node:
    name = constants.free(f"{tensor}_{op_type}_output")
    output = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
    return ir.node(op_type, inputs, attributes, outputs=[output], name=name.removesuffix("_output"))
