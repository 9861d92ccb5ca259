"""Transposes between convolutions: which go, which stay, and that no number changes."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.graph.builder import GraphBuilder
from calib8.passes.channels_first import without_transposes
from calib8.passes.half_rules import REACH
from calib8.passes.prepare import prepare
from calib8.passes.reach import mark_reach
from calib8.testing import assert_models_equal

FLOAT, CHANNELS, SIZE = ir.DataType.FLOAT, 4, 5
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Net(GraphBuilder):
    """Convolutions as TensorFlow's models have them."""

    def conv(self, x: ir.Value, channels: int = CHANNELS) -> ir.Value:
        """Of [N, C, H, W]."""
        weight = self.weight(f"w{len(self.nodes)}", CHANNELS, channels, 3, 3)
        return self.op("Conv", x, weight, pads=[1, 1, 1, 1])

    def last(self, x: ir.Value) -> ir.Value:
        """Channels last."""
        return self.op("Transpose", x, perm=TO_LAST)

    def first(self, x: ir.Value, name: str = "") -> ir.Value:
        """Channels first again."""
        return self.op("Transpose", x, perm=TO_FIRST, name=name)


def net() -> tuple[Net, ir.Value]:
    """The builder, and a convolution's output, channels last."""
    g = Net()
    return g, g.last(g.conv(g.input("x", FLOAT, "batch", CHANNELS, SIZE, SIZE)))


FEEDS = {"x": np.random.default_rng(0).normal(size=(2, CHANNELS, SIZE, SIZE)).astype(np.float32)}


def transposes(model: ir.Model) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph)


def moved(g: Net, y: ir.Value, left: int) -> ir.Model:
    """The model after the pass, which has ``left`` Transposes and computes the same."""
    model = prepare(g.model(y=y))
    before = transposes(model)
    changed = without_transposes(model)
    assert transposes(model) == before, "the caller's model is left alone"
    assert transposes(changed) == left
    assert_models_equal(model, changed, FEEDS, atol=1e-5)
    return changed


def test_those_around_what_works_value_by_value_go() -> None:
    g, x = net()
    x = g.op("Relu", g.op("Add", x, g.constant("bias", [1.0, -2.0, 3.0, -4.0])))
    changed = moved(g, g.conv(g.first(x, "back")), 0)
    conv = [node for node in changed.graph if node.op_type == "Conv"][1]
    assert conv.inputs[0] is not None
    assert conv.inputs[0].name == "back_out", "by which its range is found"
    bias = next(node for node in changed.graph if node.op_type == "Add").inputs[1]
    assert bias is not None
    assert bias.const_value is not None
    np.testing.assert_array_equal(bias.const_value.numpy(), np.reshape([1.0, -2.0, 3.0, -4.0], (1, 4, 1, 1)))


def test_a_residual_is_added_in_the_other_layout() -> None:
    g, x = net()
    inner = g.last(g.conv(g.first(g.op("Relu", x))))
    moved(g, g.conv(g.first(g.op("Relu", g.op("Add", inner, x)))), 0)


def test_a_pad_and_a_concat() -> None:
    g, x = net()
    pads = g.constant("pads", [0, 1, 0, 0, 0, 2, 3, 0], np.int64)  # height by 1 and 2, width by 0 and 3
    x = g.op("Pad", x, pads)
    x = g.op("Concat", x, g.op("Tanh", x), axis=-1)
    changed = moved(g, g.conv(g.first(x), 2 * CHANNELS), 0)
    assert next(node for node in changed.graph if node.op_type == "Concat").attributes.get_int("axis") == 1


@pytest.mark.parametrize(("pads", "axes"), [([1, 3, 2, 0], [1, 2]), ([0, 1, 3, 0, 0, 2, 0, 0], [0, 1, 2, 3])])
@pytest.mark.parametrize("value", [None, 1.5])
def test_a_pad_that_names_its_axes_keeps_its_transposes(pads: list[int], axes: list[int], value: float | None) -> None:
    """As opset 18 has it; an ``axes`` behind a ``constant_value`` that is left out was taken for that value."""
    g = Net(opset=18)
    x = g.last(g.conv(g.input("x", FLOAT, "batch", CHANNELS, SIZE, SIZE)))
    given = None if value is None else g.constant("value", value)
    padded = g.op("Pad", x, g.constant("pads", pads, np.int64), given, g.constant("axes", axes, np.int64))
    moved(g, g.conv(g.first(padded)), 2)


@pytest.mark.parametrize("by", ["attribute", "input"])
@pytest.mark.parametrize(("axes", "keepdims", "left"), [([1, 2], 0, 0), ([1, 2], 1, 1), ([3], 1, 0), ([1], 0, 1)])
def test_reductions(axes: list[int], keepdims: int, left: int, by: str) -> None:
    """Of [N, H, W, C]. Without H alone, what is left would be in another order, and the last Transpose stays."""
    g = Net(opset=17 if by == "attribute" else 18)
    x = g.last(g.conv(g.first(g.last(g.conv(g.input("x", FLOAT, "batch", CHANNELS, SIZE, SIZE))))))
    if by == "input":
        y = g.op("ReduceMean", x, g.constant("axes", axes, np.int64), keepdims=keepdims)
    else:
        y = g.op("ReduceMean", x, axes=axes, keepdims=keepdims)
    if axes == [3]:
        y = g.conv(g.first(y), 1)
    moved(g, y, left)


def test_another_reader_keeps_its_transpose() -> None:
    g, x = net()
    x = g.op("Relu", x)
    y = g.conv(g.first(x))
    rows = g.op("Flatten", x, axis=3)
    model = prepare(g.model(y=y, rows=rows))
    changed = without_transposes(model)
    assert transposes(changed) == 1
    assert_models_equal(model, changed, FEEDS, atol=1e-5)


def test_outputs_keep_name_and_layout() -> None:
    g, x = net()
    relu = g.op("Relu", x)
    model = prepare(g.model(last=relu, first=g.first(g.op("Neg", relu))))
    changed = without_transposes(model)
    assert [value.name for value in changed.graph.outputs] == ["last", "first"]
    assert transposes(changed) == 1
    assert_models_equal(model, changed, FEEDS, atol=1e-6)


def test_what_gains_nothing_is_the_model_itself() -> None:
    g, x = net()
    model = prepare(g.model(y=g.op("Softmax", x, axis=-1)))
    assert without_transposes(model) is model


def test_heads_of_attention_are_no_channels() -> None:
    g = Net()
    x = g.input("x", FLOAT, "batch", CHANNELS, SIZE, SIZE)
    y = g.op("Transpose", g.op("Relu", g.op("Transpose", x, perm=TO_LAST)), perm=TO_FIRST)
    model = prepare(g.model(y=y))
    assert without_transposes(model) is model, "no convolution is near"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["Relu", "Mul", "Add", "Sub", "join", "block", "there and back"]), max_size=6))
def test_any_chain_computes_the_same(kinds: list[str]) -> None:
    g, x = net()
    for number, kind in enumerate(kinds):
        if kind == "block":
            x = g.op("Add", x, g.last(g.conv(g.first(x))))
        elif kind == "join":
            x = g.op("Mul", x, g.op("Sigmoid", x))
        elif kind == "there and back":
            x = g.last(g.op("Relu", g.first(x)))
        elif kind == "Relu":
            x = g.op("Relu", x)
        else:
            x = g.op(kind, g.weight(f"c{number}", CHANNELS), x)
    moved(g, g.conv(g.first(x)), 0)


def test_names_that_ranges_have_are_found() -> None:
    """What FP16 does not hold is told by name: of the sum, and of what the last Transpose computed."""
    g, x = net()
    total = g.op("Add", x, g.op("Relu", x), name="sum")
    model = prepare(g.model(y=g.conv(g.first(g.op("Mul", total, g.constant("two", 2.0), name="twice"), "back"))))
    changed = without_transposes(model)
    names = [value.name for node in changed.graph for value in node.outputs]
    assert names == ["Conv_0_out", "Relu_2_out", "sum_out", "back_out", "y"]
    marked = mark_reach(changed, {"sum_out", "twice_out"})
    assert [value.name for node in marked.graph for value in node.outputs if value.meta.get(REACH)] == [
        "sum_out",
        "back_out",
    ]
