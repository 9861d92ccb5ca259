import onnx_ir as ir

from calib8.graph.builder import GraphBuilder
from calib8.graph.shapes import BESIDE, Footprint
from calib8.testing import tiny_convnet


def test_what_is_alive_at_once_is_counted() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 100)
    a = g.op("Relu", x)
    b = g.op("Concat", a, a, axis=1)
    skip = g.op("ReduceSum", b, g.constant("axes", [1], "int64"), keepdims=1)
    model = g.model(y=g.op("Add", skip, x))
    # As b is made, x (kept until the end), a and b are there: 100 + 100 + 200 floats of a row.
    assert Footprint(model).bytes_of({"x": (1, 100)}) == BESIDE * 4 * 400
    assert Footprint(model).bytes_of({"x": (3, 100)}) == BESIDE * 4 * 1200


def test_what_is_not_known_counts_as_nothing() -> None:
    model = tiny_convnet()
    model.graph[0].op_type, model.graph[0].domain = "Mystery", "of.others"
    assert 0 < Footprint(model).bytes_of({"image": (1, 3, 8, 8)}) <= BESIDE * 4 * (3 * 64 + 4)
