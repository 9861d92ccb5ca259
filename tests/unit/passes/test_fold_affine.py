"""Scales and shifts behind a convolution: what is folded into its weight, by numbers computed by hand."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.passes.fold_affine import fold_affine
from calib8.passes.half_rules import REACH
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import prepare
from calib8.passes.reach import mark_reach
from calib8.testing import assert_models_equal

FLOAT = ir.DataType.FLOAT
WEIGHT = np.arange(1, 13, dtype=np.float32).reshape(3, 4, 1, 1)
FEEDS = {"x": np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)}
NUMBERS = np.reshape([2.0, -1.0, 4.0], (3, 1, 1))


class Net(GraphBuilder):
    """A convolution of four channels to three, by 1x1."""

    def conv(self, bias: list[float] | None = None, kind: str = "Conv", **attributes: int) -> ir.Value:
        """``conv``, with its weight ``w``."""
        x = self.input("x", FLOAT, "batch", 4, 5, 5)
        weight = WEIGHT if kind == "Conv" else WEIGHT.transpose(1, 0, 2, 3)
        given = [self.constant("w", weight), *([self.constant("b", bias)] if bias is not None else [])]
        return self.op(kind, x, *given, name="conv", **attributes)


def folded(g: Net, y: ir.Value) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias behind the pass, which left nothing but the convolution."""
    model = prepare(g.model(y=y))
    changed = fold_affine(model.clone())
    assert_models_equal(model, changed, FEEDS, atol=1e-4)
    (conv,) = changed.graph
    assert [value.name for value in changed.graph.outputs] == ["y"]
    weight, bias = (changed.graph.initializers[value.name].const_value.numpy() for value in conv.inputs[1:])
    assert conv.inputs[1].name == "w", "reports name it"
    return weight, bias


@pytest.mark.parametrize(
    ("kind", "constant_first", "scale", "bias"),
    [
        ("Add", False, [1, 1, 1], [12, 19, 34]),
        ("Add", True, [1, 1, 1], [12, 19, 34]),
        ("Sub", False, [1, 1, 1], [8, 21, 26]),
        ("Sub", True, [-1, -1, -1], [-8, -21, -26]),
        ("Mul", False, [2, -1, 4], [20, -20, 120]),
        ("Mul", True, [2, -1, 4], [20, -20, 120]),
        ("Div", False, [0.5, -1, 0.25], [5, -20, 7.5]),
    ],
)
def test_arithmetic(kind: str, constant_first: bool, scale: list[float], bias: list[float]) -> None:
    g = Net()
    operands = [g.conv([10, 20, 30]), g.constant("c", NUMBERS)]
    weight, shift = folded(g, g.op(kind, *(operands[::-1] if constant_first else operands)))
    np.testing.assert_array_equal(weight, WEIGHT * np.reshape(scale, (3, 1, 1, 1)))
    np.testing.assert_array_equal(shift, bias)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_norm_and_a_scalar_behind_it(kind: str) -> None:
    g = Net()
    norm = [
        g.constant(*given) for given in (("g", [3, 5, 8]), ("beta", [1, 2, 3]), ("mean", [1, 0, 2]), ("v", [8, 24, 15]))
    ]
    y = g.op("BatchNormalization", g.conv(kind=kind), *norm, epsilon=1.0)  # standard deviations 3, 5, 4
    weight, bias = folded(g, g.op("Mul", y, g.constant("ten", 10.0)))
    scaled = WEIGHT * np.reshape([10, 10, 20], (3, 1, 1, 1))
    np.testing.assert_allclose(weight, scaled if kind == "Conv" else scaled.transpose(1, 0, 2, 3), rtol=1e-6)
    np.testing.assert_allclose(bias, [0, 20, -10], atol=1e-5)  # (1 - 1 * 1) * 10, (2 - 0) * 10, (3 - 2 * 2) * 10


@pytest.mark.parametrize("variance", [0.0, -1.0])
@pytest.mark.filterwarnings("error")
def test_a_norm_that_divides_by_nothing_stays(variance: float) -> None:
    g = Net()
    norm = [g.constant(name, [number] * 3) for name, number in (("g", 1.0), ("beta", 0.0), ("mean", 0.0))]
    y = g.op("BatchNormalization", g.conv(), *norm, g.constant("v", [1.0, variance, 1.0]), epsilon=0.0)
    unfolded(g, y)


def test_what_a_tensor_was_called_before_it_was_scaled_says_nothing_of_it() -> None:
    """FP16 does not hold ``conv_out``, which is no more: it is what was found between two Transposes that are gone."""
    g = Net()
    back = g.op("Transpose", g.op("Transpose", g.conv(), perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2), name="back")
    model = prepare(g.model(y=g.op("Relu", g.op("Mul", back, g.constant("c", NUMBERS), name="scaled"))))
    marked = mark_reach(plain_convolutions(model), {"conv_out"})
    assert [node.op_type for node in marked.graph] == ["Conv", "Relu"]
    assert not any(value.meta.get(REACH) for node in marked.graph for value in node.outputs)


def unfolded(g: Net, *outputs: ir.Value) -> None:
    model = prepare(g.model(**{f"y{number}": value for number, value in enumerate(outputs)}))
    kinds = [node.op_type for node in model.graph]
    assert [node.op_type for node in fold_affine(model.clone()).graph] == kinds


def test_what_is_no_scale_of_channels_stays() -> None:
    for shape in ((1, 1, 5), (1, 5, 1), (2, 1, 1, 1), (1, 1, 1, 1, 1)):
        g = Net()
        unfolded(
            g, g.op("Add", g.conv(), g.constant("c", np.ones(shape) if shape != (2, 1, 1, 1) else [[[[1]]], [[[2]]]]))
        )
    g = Net()
    unfolded(g, g.op("Div", g.constant("c", NUMBERS), g.conv()))
    g = Net()
    conv = g.conv()
    unfolded(g, g.op("Mul", conv, conv))
    g = Net()
    unfolded(g, g.op("Div", g.conv(), g.constant("zero", 0.0)))


def test_what_others_read_stays() -> None:
    g = Net()
    conv = g.conv()
    unfolded(g, g.op("Mul", conv, g.constant("c", NUMBERS)), g.op("Relu", conv))
    g = Net()
    conv = g.conv()
    unfolded(g, g.op("Mul", conv, g.constant("c", NUMBERS)), conv)


def test_groups_of_a_transposed_convolution_have_no_axis_of_channels() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4, 5, 5)
    y = g.op("ConvTranspose", x, g.weight("w", 4, 3, 2, 2), group=2)
    model = prepare(g.model(y=g.op("Mul", y, g.constant("c", np.ones((6, 1, 1)) * 2))))
    assert [node.op_type for node in fold_affine(model).graph] == ["ConvTranspose", "Mul"]


def test_a_shared_weight_stays_that_of_the_other() -> None:
    g = GraphBuilder()
    x, weight = g.input("x", FLOAT, "batch", 4, 5, 5), g.constant("w", WEIGHT)
    doubled = g.op("Mul", g.op("Conv", x, weight, name="one"), g.constant("two", 2.0))
    model = prepare(g.model(y=g.op("Add", doubled, g.op("Relu", g.op("Conv", x, weight, name="other")))))
    changed = plain_convolutions(model)
    assert_models_equal(model, changed, FEEDS, atol=1e-4)
    weights = {node.name: node.inputs[1].const_value.numpy() for node in changed.graph if node.op_type == "Conv"}
    np.testing.assert_array_equal(weights["one"], 2 * WEIGHT)
    np.testing.assert_array_equal(weights["other"], WEIGHT)
