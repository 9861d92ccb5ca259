"""Pads that convolutions and poolings do by themselves: which, and that no number changes."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.graph.values import dropped_identities
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal

FLOAT, INT64 = ir.DataType.FLOAT, np.int64
FEEDS = {"x": np.random.default_rng(0).normal(size=(2, 3, 7, 7)).astype(np.float32)}
SIDES = [0, 0, 1, 0, 0, 0, 2, 1]


class Net(GraphBuilder):
    """Of x [batch, 3, 7, 7]."""

    def x(self) -> ir.Value:
        return self.input("x", FLOAT, "batch", 3, 7, 7)

    def pad(
        self, x: ir.Value, sides: list[int] = SIDES, mode: str = "constant", number: float | None = None
    ) -> ir.Value:
        """Named pad, with a number given or not."""
        given = [] if number is None else [self.constant("number", np.float32(number))]
        return self.op("Pad", x, self.constant("sides", sides, INT64), *given, name="pad", mode=mode)

    def conv(self, x: ir.Value, **attributes: object) -> ir.Value:
        """3x3."""
        return self.op("Conv", x, self.weight("w", 4, 3, 3, 3), name="conv", **attributes)


def folded(g: Net, y: ir.Value, *, left: int = 0) -> dict[str, ir.Node]:
    """The nodes by name of the prepared model, which computes the same and has ``left`` Pads."""
    model = g.model(y=y)
    changed = prepare(model.clone())
    assert sum(node.op_type == "Pad" for node in changed.graph) == left
    assert_models_equal(model, changed, FEEDS, atol=1e-6)
    return {node.name: node for node in changed.graph}


def pads(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("pads", ()))


def test_a_convolution_pads_with_what_it_had_and_the_zeros_in_front() -> None:
    g = Net()
    assert pads(folded(g, g.conv(g.pad(g.x()), pads=[1, 0, 1, 0]))["conv"]) == [2, 0, 3, 1]


def test_the_name_of_the_pad_is_another_one_of_what_it_padded() -> None:
    g = Net()
    x = g.x()
    model = prepare(g.model(y=g.conv(g.pad(x))))
    assert dropped_identities(model.graph.inputs[0]) == ["pad_out"]
    ranges = calib8.calibrate(model, [FEEDS], calib8.Calibrate(tensors="all"))
    assert ranges.tensors["pad_out"] == ranges.tensors["x"]


def test_zeros_may_be_written_out_and_other_numbers_stay() -> None:
    for number, left in ((0.0, 0), (1.0, 1)):
        g = Net()
        folded(g, g.conv(g.pad(g.x(), number=number)), left=left)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_a_convolution_has_no_other_modes(mode: str) -> None:
    g = Net()
    folded(g, g.conv(g.pad(g.x(), mode=mode)), left=1)


@pytest.mark.parametrize("sides", [[0, 1, 1, 0, 0, 0, 2, 1], [0, 0, -1, 0, 0, 0, 0, 0]])
def test_pads_of_channels_and_what_cuts_stay(sides: list[int]) -> None:
    g = Net()
    pooled = g.op("MaxPool", g.op("Relu", g.pad(g.x(), sides)), kernel_shape=[3, 3])
    folded(g, g.op("GlobalAveragePool", pooled), left=1)


def test_a_pooling_behind_relu_takes_zeros() -> None:
    g = Net()
    pooled = g.op("MaxPool", g.pad(g.op("Relu", g.x())), name="pool", kernel_shape=[3, 3], strides=[2, 2])
    assert pads(folded(g, pooled)["pool"]) == [1, 0, 2, 1]


def test_a_pooling_of_negative_numbers_takes_the_edge_alone() -> None:
    for mode, left in (("constant", 1), ("edge", 0)):
        g = Net()
        folded(g, g.op("MaxPool", g.pad(g.x(), mode=mode), name="pool", kernel_shape=[3, 3], strides=[2, 2]), left=left)


@pytest.mark.parametrize("why", ["sees nothing", "gaps", "rounds up"])
def test_other_poolings_stay(why: str) -> None:
    g = Net()
    size = 2 if why == "sees nothing" else 3
    more = {"gaps": {"dilations": [2, 2]}, "rounds up": {"ceil_mode": 1}}.get(why, {})
    folded(g, g.op("MaxPool", g.pad(g.op("Relu", g.x())), kernel_shape=[size, size], **more), left=1)


def test_an_average_counts_the_zeros() -> None:
    g = Net()
    padded = g.pad(g.x(), [0, 0, 1, 2, 0, 0, 1, 2])
    node = folded(g, g.op("AveragePool", padded, name="pool", kernel_shape=[3, 3]))["pool"]
    assert (pads(node), node.attributes.get_int("count_include_pad")) == ([1, 2, 1, 2], 1)


def test_an_average_has_both_sides_alike() -> None:
    g = Net()
    folded(g, g.op("AveragePool", g.pad(g.x()), kernel_shape=[3, 3]), left=1)


def test_an_average_that_does_not_count_its_own_zeros_stays() -> None:
    g = Net()
    folded(g, g.op("AveragePool", g.pad(g.x()), kernel_shape=[3, 3], pads=[1, 1, 1, 1]), left=1)


def test_channels_last_are_padded_behind_the_transpose() -> None:
    g = Net()
    last = g.op("Transpose", g.x(), perm=[0, 2, 3, 1])
    padded = g.op("Pad", last, g.constant("sides", [0, 1, 0, 0, 0, 2, 1, 0], INT64), name="pad")
    assert pads(folded(g, g.conv(g.op("Transpose", padded, perm=[0, 3, 1, 2])))["conv"]) == [1, 0, 2, 1]


def test_who_else_reads_it_keeps_it() -> None:
    g = Net()
    padded = g.pad(g.x())
    y = g.op("Add", g.op("ReduceMean", g.conv(padded)), g.op("ReduceMean", padded))
    assert pads(folded(g, y, left=1)["conv"]) == [1, 0, 2, 1]


def test_counts_that_are_computed_of_known_sizes_are_counts() -> None:
    """As TensorFlow's SAME: (7 - 1) // 2 of the height, put where the sides are listed."""
    g = Net()
    x = g.x()
    height = g.op("Gather", g.op("Shape", x), g.constant("axis", 2, INT64))
    side = g.op("Div", g.op("Sub", height, g.constant("one", 1, INT64)), g.constant("two", 2, INT64))
    ends = g.op(
        "Concat", g.op("Unsqueeze", side, g.constant("zero", [0], INT64)), g.constant("none", [0], INT64), axis=0
    )
    sides = g.op("Concat", g.constant("before", [0, 0, 1, 0, 0, 0], INT64), ends, axis=0)
    assert pads(folded(g, g.conv(g.op("Pad", x, sides)))["conv"]) == [1, 0, 3, 0]


def test_sizes_that_a_file_tells_of_what_is_computed_are_not_believed() -> None:
    """It says 9 of a height that is 7: the side would be 4 where it is 3."""
    g = Net()
    read = g.op("Relu", g.x())
    height = g.op("Gather", g.op("Shape", read), g.constant("axis", 2, INT64))
    side = g.op("Div", g.op("Sub", height, g.constant("one", 1, INT64)), g.constant("two", 2, INT64))
    sides = [g.constant("before", [0, 0, 1, 0, 0, 0], INT64), g.op("Unsqueeze", side, g.constant("at", [0], INT64))]
    sides.append(g.constant("no", [0], INT64))
    y = g.conv(g.op("Pad", read, g.op("Concat", *sides, axis=0)))
    read.shape = ir.Shape(["batch", 3, 9, 7])
    assert pads(folded(g, y)["conv"]) == [1, 0, 3, 0]


def test_what_stands_beside_valid_means_nothing() -> None:
    g = Net()
    attributes = {"auto_pad": "VALID", "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    node = folded(g, g.op("MaxPool", g.pad(g.op("Relu", g.x())), name="pool", **attributes))["pool"]
    assert pads(node) == [1, 0, 2, 1]


COUNT = st.integers(0, 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(COUNT, min_size=4, max_size=4), st.lists(COUNT, min_size=4, max_size=4), st.sampled_from([1, 2]))
def test_no_number_changes(outer: list[int], own: list[int], stride: int) -> None:
    g = Net()
    sides = [0, 0, *outer[:2], 0, 0, *outer[2:]]
    y = g.conv(g.op("Relu", g.pad(g.x(), sides)), pads=own, strides=[stride, stride])
    folded(g, y, left=1)  # behind the Relu: the Pad is not the convolution's
    g = Net()
    folded(g, g.conv(g.pad(g.op("Relu", g.x()), sides), pads=own, strides=[stride, stride]))
