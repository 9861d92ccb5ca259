"""One Q/DQ pair for readers that are quantised one after the other."""

import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.passes.qdq_nodes import Constants, quantised_activation
from calib8.precision import FP8, INT8


@pytest.mark.parametrize(
    ("amax", "grid", "pairs"), [(4.0, INT8, 1), (4.1, INT8, 2), (4.0, FP8, 2)], ids=["same", "another scale", "FP8"]
)
def test_a_pair_of_this_scale_that_is_there_is_taken(amax, grid, pairs) -> None:
    g = GraphBuilder()
    x = g.op("Relu", g.input("x", ir.DataType.FLOAT, "batch", 4))
    model = g.model(y=g.op("Neg", x))
    constants = Constants(model.graph)
    first, second = quantised_activation(constants, x, 4.0), quantised_activation(constants, x, amax, grid)
    assert (first is second) == (pairs == 1)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == pairs
