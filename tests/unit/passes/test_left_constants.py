"""A product with a constant on the left is one of the tensors turned around: the same numbers, and a weight."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.left_out import left_out
from calib8.graph.site import sites
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal

FLOAT = ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("constant", "shape"),
    [
        ((5, 4), (2, 4, 6)),
        ((5, 4), (2, 3, 4, 6)),
        ((1, 5, 4), (2, 4, 6)),
        ((1, 1, 5, 4), (2, 3, 4, 6)),
        ((5, 4), (4, 6)),
    ],
)
def test_the_constant_becomes_the_weight(constant: tuple[int, ...], shape: tuple[int, ...]) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, *(("batch", *shape[1:]) if len(shape) > 2 else shape))
    model = g.model(y=g.op("MatMul", g.weight("c", *constant), x, name="mix"))
    prepared = prepare(model.clone())
    [op] = weighted_ops(prepared)
    assert (op.name, op.weight_array().shape, op.channel_axis) == ("mix", (4, 5), 1)
    assert np.array_equal(op.weight_array(), model.graph.initializers["c"].const_value.numpy().reshape(5, 4).T)
    assert left_out(prepared) == []
    assert [node.op_type for node in prepared.graph] == ["Transpose", "MatMul", "Transpose"]
    assert [value.name for value in prepared.graph.outputs] == ["y"]
    assert "c" not in prepared.graph.initializers
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    assert_models_equal(model, prepared, feeds, atol=1e-6)


def test_constants_that_multiply_one_tensor_are_one_site() -> None:
    """And what else reads the constant still has it."""
    g = GraphBuilder()
    x, shared = g.input("x", FLOAT, "batch", 4, 6), g.weight("c", 4, 4)
    first, second = g.op("MatMul", shared, x, name="a"), g.op("MatMul", g.weight("d", 3, 4), x, name="b")
    model = g.model(y=g.op("Add", first, g.op("ReduceSum", shared)), z=second)
    prepared = prepare(model.clone())
    [site] = sites(prepared)
    assert [op.name for op in site.ops] == ["a", "b"]
    assert "c" in prepared.graph.initializers
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)}
    assert_models_equal(model, prepared, feeds, atol=1e-6)


def test_what_has_no_two_axes_to_swap_stays() -> None:
    g = GraphBuilder()
    vector, pair = g.input("v", FLOAT, 4), g.input("p", FLOAT, 4, "n")
    model = g.model(y=g.op("MatMul", g.weight("c", 5, 4), vector), z=g.op("MatMul", g.weight("d", 2, 5, 4), pair))
    prepared = prepare(model.clone())
    assert weighted_ops(prepared) == []
    assert len(left_out(prepared)) == 2
