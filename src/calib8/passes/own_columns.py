"""Compute some channels of a tensor a second time, by a small GEMM of their own, so that nobody gathers them.

    x -> MatMul(W) -> Add(b) -> GELU -> y
    y[channels]   ==   x -> MatMul(W[:, channels]) -> Add(b[channels]) -> GELU

Rules:
1. Only where ``y`` is computed by one MatMul or Gemm with a constant float weight and elementwise ops behind it
   (``graph/branch.py``): column j decides channel j alone, so in float the numbers are the same.
2. The original stays as it is. A Gather of what it computes would keep TensorRT from fusing what follows it (Q, above
   all) into its GEMM; the copy has as many columns as there are channels.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.branch import axis_of_columns, weighted_branch_of
from calib8.graph.values import insert_behind, op_of
from calib8.passes.qdq_nodes import Constants


def own_columns(constants: Constants, value: ir.Value, channels: int, chosen: NDArray[np.int64]) -> ir.Value | None:
    """``value[..., chosen]``, computed beside ``value``, whose last axis has ``channels``; None where rule 1 fails."""
    branch = weighted_branch_of(value, channels)
    if branch is None:
        return None
    twins: dict[ir.Value, ir.Value] = {}
    nodes = [
        _twin(constants, node, twins, channels, chosen)
        for node in constants.graph
        if node is branch.gemm or node in branch.nodes
    ]
    insert_behind(constants.graph, value, nodes)
    return twins[value]


def _twin(
    constants: Constants,
    node: ir.Node,
    twins: dict[ir.Value, ir.Value],
    channels: int,
    chosen: NDArray[np.int64],
) -> ir.Node:
    """``node`` for the ``chosen`` channels alone. ``twins`` are the values of those before it, and get its own."""

    def own(index: int, operand: ir.Value | None) -> ir.Value | None:
        if operand is None or operand in twins:
            return None if operand is None else twins[operand]
        array = operand.const_value.numpy() if operand.const_value is not None else np.zeros(0)
        axis = axis_of_columns(node) if index == 1 and op_of(node) in ("MatMul", "Gemm") else -1
        if array.ndim == 0 or array.shape[axis] != channels:
            return operand
        return constants.new(f"{operand.name}_columns", np.ascontiguousarray(array.take(chosen, axis)))

    output = node.outputs[0]
    shape = None if output.shape is None else ir.Shape([*output.shape[:-1], len(chosen)])
    twin = ir.Value(name=constants.free(f"{output.name}_columns"), type=output.type, shape=shape)
    twins[output] = twin
    inputs = [own(index, operand) for index, operand in enumerate(node.inputs)]
    name = constants.free(f"{node.name}_Columns")
    return ir.node(node.op_type, inputs, dict(node.attributes), domain=node.domain, outputs=[twin], name=name)
