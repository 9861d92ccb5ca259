import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp


def only(op_type: str, weight: np.ndarray | None, *, domain: str = "", **attributes: int) -> list[WeightedOp]:
    """The weighted ops of a graph with one node; None makes the weight an input."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    w = g.input("w", ir.DataType.FLOAT, 4, 4) if weight is None else g.constant("w", weight, weight.dtype)
    g.op(op_type, x, w, name="op", **attributes)
    g.nodes[0].domain = domain
    return weighted_ops(ir.Model(ir.Graph([x], [], nodes=g.nodes, initializers=g.constants, name="g"), ir_version=10))


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes", "axis"),
    [
        ("MatMul", (4, 5), {}, 1),
        ("Gemm", (4, 5), {}, 1),
        ("Gemm", (4, 5), {"transB": 0}, 1),
        ("Gemm", (5, 4), {"transB": 1}, 0),
        ("Conv", (5, 4, 3, 3), {}, 0),
        ("Conv", (5, 4, 3), {}, 0),
    ],
)
def test_output_channels(op_type: str, shape: tuple[int, ...], attributes: dict[str, int], axis: int) -> None:
    (op,) = only(op_type, np.ones(shape, np.float32), **attributes)
    assert (op.name, op.kind, op.channel_axis, op.channels) == ("op", op_type, axis, 5)
    assert (op.activation.name, op.weight.name) == ("x", "w")
    assert op.weight_array().dtype == np.float32


@pytest.mark.parametrize(
    ("op_type", "weight", "options"),
    [
        ("MatMul", None, {}),
        ("MatMul", np.ones((2, 4, 4), np.float32), {}),
        ("MatMul", np.ones(4, np.float32), {}),
        ("MatMul", np.ones((4, 4), np.int32), {}),
        ("MatMul", np.ones((4, 4), np.float64), {}),
        ("Gemm", np.ones((4, 4), np.float32), {"transA": 1}),
        ("Add", np.ones((4, 4), np.float32), {}),
        ("MatMul", np.ones((4, 4), np.float32), {"domain": "com.example"}),
    ],
)
def test_what_is_left_alone(op_type: str, weight: np.ndarray | None, options: dict) -> None:
    assert only(op_type, weight, **options) == []


def test_a_constant_on_the_left_is_no_activation() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, 4, "n")
    assert weighted_ops(g.model(y=g.op("MatMul", g.weight("w", 3, 4), x))) == []
    g = GraphBuilder()
    y = g.op("MatMul", g.weight("a", 3, 4), g.weight("b", 4, 2))
    assert weighted_ops(g.model(y=y)) == []


def test_tiny_models_in_graph_order() -> None:
    assert [op.name for op in weighted_ops(tiny_mlp())] == ["first", "second"]
    assert [op.name for op in weighted_ops(tiny_convnet())] == ["conv", "head"]
    assert [op.name for op in weighted_ops(tiny_encoder())] == ["q", "k", "v", "o", "up", "down"]
