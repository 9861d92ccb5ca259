"""Plain kernels in place of loops that the host drives: with such a loop no CUDA graph can be captured.

    CumSum(x, axis)   becomes   ReduceSum over j of Where(i < j, 0, x[…, j, …]),   i and j = Range(length of axis)

Position ids of MPNet, RoBERTa and XLM-R are such sums of a mask. Up to TensorRT 10.7 the ONNX parser makes a loop of
CumSum; from 10.8 there is a kernel for it, reported to take one axis for all sums of a model (NVIDIA/TensorRT issue
4551). TensorRT-RTX plans what is written here as one kernel, together with what computes the mask; in TensorRT 10.6 on
an H200 it is 3 layers and 5.5 us for 32 x 128. A MatMul with a triangle of ones takes 6 and 9 us there, and would be
FP32, refused for Turing and multiplied as TF32 elsewhere, or FP16, which counts to 2,048.

Rules:
1. Integers are chosen and summed in their own type. Sums below 2^24 are exact whatever a runtime adds them up in (ONNX
   Runtime takes double: 2^53); positions are far below.
2. Floats are replaced only behind a Cast of integers or booleans: then the same holds, whatever the order of additions.
   Of others the rounding would change; they stay.
3. ``exclusive`` and ``reverse`` decide which of i < j and j < i is asked, and whether it chooses x or 0.
4. The axis must be constant and the rank known.
5. As many numbers are summed as a sample of x has, times the length: of a mask, as many as one head of attention has
   scores. Where it is more than ``MOST_TERMS``, CumSum stays. A size that the model leaves open counts as ``USUAL``.
6. The sum says which CumSum it stands for: CPU runtimes get that back (``graph.running_sum``).
"""

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from calib8.graph.running_sum import stand_for
from calib8.graph.values import drop_unread, name_of, op_of
from calib8.passes.qdq_nodes import Constants

#: Rule 5.
USUAL = 512
MOST_TERMS = USUAL**3
INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL
INTEGERS = (ir.DataType.INT32, INT64)
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def replace_host_loops(model: ir.Model) -> ir.Model:
    """Replace every CumSum of the main graph that the rules allow, in place, and return the model (see ``prepare``)."""
    constants = Constants(model.graph)
    for node in list(model.graph):
        if op_of(node) == "CumSum" and (axis := _axis(node)) is not None:
            _replace(constants, node, axis)
    return model


def _axis(node: ir.Node) -> int | None:
    """The axis of a CumSum, counted from the front; None where it has to stay."""
    x, given = node.inputs
    if x is None or x.shape is None or given is None or given.const_value is None:
        return None  # rule 4
    axis, rank = int(given.const_value.numpy().item()), len(x.shape)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    sizes = [size if isinstance(size, int) else USUAL for size in x.shape]
    if math.prod(sizes[1:] if axis else sizes) * sizes[axis] > MOST_TERMS:
        return None  # rule 5
    return axis if x.dtype in INTEGERS or (x.dtype in FLOATS and _counted(x)) else None


def _counted(x: ir.Value) -> bool:
    """Rule 2."""
    producer = x.producer()
    source = producer.inputs[0] if producer is not None and op_of(producer) == "Cast" else None
    return source is not None and source.dtype is not None and (source.dtype.is_integer() or source.dtype == BOOL)


def _replace(constants: Constants, node: ir.Node, axis: int) -> None:
    x, graph, tape = node.inputs[0], constants.graph, Tape()
    assert x is not None
    assert x.dtype is not None
    assert x.shape is not None
    base, behind, length = name_of(node.outputs[0]), len(x.shape) - 1 - axis, x.shape[axis]

    def op(
        kind: str, inputs: list[ir.Value], dtype: ir.DataType, *shape: int | ir.SymbolicDim, **attributes: int
    ) -> ir.Value:
        name = constants.free(f"{base}_{kind}")
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        return tape.op(kind, inputs, attributes, name=name, output=output)

    def number(name: str, value: object, dtype: ir.DataType = INT64) -> ir.Value:
        return constants.new(f"{base}_{name}", np.asarray(value, dtype.numpy()))

    def axes(name: str, first: int, count: int) -> ir.Value:
        return number(name, np.arange(first, first + count))

    zero, one = number("zero", 0), number("one", 1)
    size = op("Gather", [op("Shape", [x], INT64, len(x.shape)), number("axis", axis)], INT64)
    steps = op("Range", [zero, size, one], INT64, length)
    ones = [1] * behind
    summed = op("Unsqueeze", [steps, axes("behind", 1, behind)], INT64, length, *ones) if behind else steps
    result = op("Unsqueeze", [steps, axes("column", 1, behind + 1)], INT64, length, 1, *ones)
    exclusive, reverse = (node.attributes.get_int(name, 0) for name in ("exclusive", "reverse"))
    pair = [result, summed] if exclusive == reverse else [summed, result]  # rule 3
    less = op("Less", pair, BOOL, length, length, *ones)
    before, after = list(x.shape[:axis]), list(x.shape[axis + 1 :])
    wide = op("Unsqueeze", [x, number("wide", [axis])], x.dtype, *before, 1, length, *after)
    none = number("none", 0, x.dtype)
    choices = [wide, none] if exclusive else [none, wide]
    chosen = op("Where", [less, *choices], x.dtype, *before, length, length, *after)
    total = op("ReduceSum", [chosen, number("over", [axis + 1])], x.dtype, *x.shape, keepdims=0)
    made = total.producer()
    assert made is not None
    stand_for(made, axis, exclusive, reverse)  # rule 6
    given = node.inputs[1]
    ir.convenience.replace_nodes_and_values(graph, node, [node], list(tape.nodes), node.outputs, [total])
    if given is not None and given.is_initializer():
        drop_unread(graph, given)
