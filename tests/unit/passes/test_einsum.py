"""Einsums that are one product with a weight become MatMuls of the same numbers; all others stay."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.left_out import left_out
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal

FLOAT = ir.DataType.FLOAT
SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6}


def einsum(equation: str, *, weight_first: bool = False) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """The model, the first axis of its input free, and what it is fed."""
    g = GraphBuilder()
    parts = equation.partition("->")[0].replace(" ", "").split(",")
    own, other = reversed(parts) if weight_first else parts
    shape = [SIZES[letter] for letter in own.replace("...", "ab")]
    x = g.input("x", FLOAT, "batch", *shape[1:])
    weight = g.weight("w", *(SIZES[letter] for letter in other.replace("...", "")))
    operands = (weight, x) if weight_first else (x, weight)
    model = g.model(y=g.op("Einsum", *operands, name="sum", equation=equation))
    return model, {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("ab,bc->ac", (3, 4)),
        ("abc,cd->abd", (4, 5)),
        ("abc, dc -> abd", (4, 5)),  # the weight is stored transposed
        ("abc,cde->abde", (4, 30)),  # Keras: a part of the columns for each head
        ("abcd,cde->abe", (20, 6)),  # and the heads together again
        ("abcd,dce->abe", (20, 6)),
        ("abc,dce->abed", (4, 30)),
    ],
)
def test_a_product_becomes_a_matmul(equation: str, shape: tuple[int, int]) -> None:
    model, feeds = einsum(equation)
    prepared = prepare(model.clone())
    assert [(op.name, op.kind, op.weight_array().shape) for op in weighted_ops(prepared)] == [("sum", "MatMul", shape)]
    assert {node.op_type for node in prepared.graph} <= {"MatMul", "Reshape"}
    assert left_out(prepared) == []
    assert_models_equal(model, prepared, feeds, atol=1e-5)
    more = {"x": np.concatenate([feeds["x"], feeds["x"]])}
    assert_models_equal(model, prepared, more, atol=1e-5)


def test_the_weight_may_come_first() -> None:
    model, feeds = einsum("cd,abc->abd", weight_first=True)
    prepared = prepare(model.clone())
    assert [op.name for op in weighted_ops(prepared)] == ["sum"]
    assert_models_equal(model, prepared, feeds, atol=1e-5)


@pytest.mark.parametrize(
    "equation",
    [
        "abc,bd->acd",  # what is summed over is not last
        "abc,cd->adb",  # the result is transposed
        "abc,bcd->abd",  # b is a batch of both
        "abc,cd->ad",  # b is dropped
        "abc,c->ab",  # no columns
        "abcd,bde->ace",  # what is summed over is apart
        "...c,cd->...d",  # any rank
    ],
)
def test_what_is_more_than_a_product_stays(equation: str) -> None:
    model, feeds = einsum(equation)
    prepared = prepare(model.clone())
    assert [node.op_type for node in prepared.graph] == ["Einsum"]
    assert_models_equal(model, prepared, feeds, atol=0)
