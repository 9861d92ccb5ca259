"""What follows a convolution value by value, and who reads what comes of it."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.pointwise import becomes_codes, ends_in_kernel, ends_of, joined, pointwise_from

FLOAT = ir.DataType.FLOAT


def started() -> tuple[GraphBuilder, ir.Value, ir.Value]:
    """A graph with x [batch, 4, 8, 8] and a convolution of it."""
    g = GraphBuilder(20)
    x = g.input("x", FLOAT, "batch", 4, 8, 8)
    return g, x, g.op("Conv", x, g.weight("w", 4, 4, 1, 1), name="conv")


def kinds(nodes: list[ir.Node]) -> list[str]:
    return [node.op_type for node in nodes]


def test_all_that_reads_it_and_constants_alone() -> None:
    g, x, conv = started()
    three = g.constant("three", np.float32(3))
    swish = g.op("Mul", conv, g.op("Clip", g.op("Add", conv, three), three, three))
    g.model(y=g.op("Add", swish, x))  # another tensor
    values, nodes = pointwise_from(conv)
    assert values[0] is conv
    assert kinds(nodes) == ["Add", "Clip", "Mul"]
    assert values[1:] == [node.outputs[0] for node in nodes]


def test_a_cast_ends_it() -> None:
    g, _, conv = started()
    g.model(y=g.op("Cast", g.op("Relu", conv), to=int(ir.DataType.FLOAT16)))
    assert kinds(pointwise_from(conv)[1]) == ["Relu"]


Step = Callable[[GraphBuilder, ir.Value], ir.Value]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda g, v: v, True),
        (lambda g, v: g.op("Clip", g.op("Relu", v), g.constant("low", np.float32(0))), True),
        (lambda g, v: g.op("Mul", v, g.op("Sigmoid", v)), True),
        (lambda g, v: g.op("Mul", g.op("Sigmoid", v), g.constant("two", np.float32(2))), False),
        (lambda g, v: g.op("Sigmoid", v), False),
        (lambda g, v: g.op("HardSwish", v), False),
        (lambda g, v: g.op("LeakyRelu", v), False),
        (lambda g, v: g.op("Mul", v, g.constant("two", np.float32(2))), False),
    ],
    ids=["nothing", "bounds", "SiLU", "sigmoid and a constant", "sigmoid", "HardSwish", "LeakyRelu", "a factor"],
)
def test_what_every_kernel_can_end_with(step: Step, expected: bool) -> None:
    g, _, conv = started()
    g.model(y=g.op("GlobalAveragePool", step(g, conv)))
    assert ends_in_kernel(pointwise_from(conv)[1]) == expected


def test_ends_are_looked_for_past_what_only_moves_codes() -> None:
    g, _, conv = started()
    pooled = g.op("MaxPool", g.op("Relu", conv), kernel_shape=[2, 2])
    last = g.op("Conv", pooled, g.weight("w2", 4, 4, 1, 1), name="last")
    g.model(y=last, z=g.op("GlobalAveragePool", conv))
    ends = [(reader.op_type if reader else None, value.name) for reader, value in ends_of(*pointwise_from(conv))]
    assert sorted(ends) == sorted([("GlobalAveragePool", conv.name), ("Conv", pooled.name)])
    assert ends_of([last], []) == [(None, last)]


def test_joined_is_what_works_by_value_on_another_tensor_and_nothing_else() -> None:
    for others, expected in (
        (["Add"], True),
        (["Add", "Mul"], True),
        (["Add", "GlobalAveragePool"], False),
        ([], False),
    ):
        g, x, conv = started()
        active = g.op("LeakyRelu", conv)
        for kind in others:
            g.op(kind, *([active, x] if kind != "GlobalAveragePool" else [active]))
        assert joined(ends_of(*pointwise_from(conv))) == expected, others


def test_codes_are_what_q_makes_at_once_or_behind_a_cast_of_its_own() -> None:
    g, _, conv = started()
    scale, zero = g.constant("scale", np.float32(0.1)), g.constant("zero", np.int8(0))
    cast = g.op("Cast", conv, to=int(FLOAT))
    codes = g.op("QuantizeLinear", cast, scale, zero)
    assert becomes_codes(codes.producer())
    assert becomes_codes(cast.producer())
    g.op("Relu", cast)
    assert not becomes_codes(cast.producer())
    assert not becomes_codes(conv.producer())
    assert not becomes_codes(None)
