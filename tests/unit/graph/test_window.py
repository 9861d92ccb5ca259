from math import prod

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from seen_rows import patches

from calib8.graph.builder import GraphBuilder
from calib8.graph.site import matrix_of
from calib8.graph.weighted import weighted_ops
from calib8.graph.window import Window, window_of
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of


def window(kernel: int, stride: int = 1, dilation: int = 1, before: int = 0, after: int = 0) -> Window:
    return Window((kernel,), (stride,), (dilation,), (before,), (after,))


def conv(weight: np.ndarray, sizes: tuple[int, ...], **attributes: object) -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", weight.shape[1] * int(attributes.get("group", 1)), *sizes)
    return prepare(g.model(y=g.op("Conv", x, g.constant("w", weight), name="conv", **attributes)))


@st.composite
def walks(draw: st.DrawFn) -> tuple[Window, tuple[int, ...]]:
    """A window and spatial sizes of an input on which it has at least one output."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    found, sizes = Window(each(1, 3), each(1, 3), each(1, 2), each(0, 2), each(0, 2)), each(1, 7)
    reach = [d * (k - 1) + 1 for d, k in zip(found.dilations, found.kernel, strict=True)]
    assume(all(n + b + a >= r for n, b, a, r in zip(sizes, found.before, found.after, reach, strict=True)))
    return found, sizes


@settings(deadline=None, max_examples=150)
@given(walks(), st.integers(0, 2**32 - 1))
def test_patches_times_the_matrix_are_what_onnx_runtime_computes(
    walk: tuple[Window, tuple[int, ...]], seed: int
) -> None:
    w, sizes = walk
    random = np.random.default_rng(seed)
    weight = random.integers(-9, 10, (3, 2, *w.kernel)).astype(np.float32)  # integers: sums are exact in any order
    x = random.integers(-9, 10, (2, 2, *sizes)).astype(np.float32)
    attributes = {"strides": w.strides, "dilations": w.dilations, "pads": w.before + w.after}
    model = conv(weight, sizes, **attributes)
    (op,) = weighted_ops(model)
    assert window_of(op.node, w.kernel) == w
    expected = outputs_of(model, {"x": x})["y"]
    assert w.outputs(sizes) == expected.shape[2:]
    chosen = random.uniform(size=(2, *w.outputs(sizes))) < 0.7
    got = patches(w, x, chosen) @ matrix_of(op)
    np.testing.assert_array_equal(got, np.moveaxis(expected, 1, -1)[chosen])


@pytest.mark.parametrize(
    ("walk", "expected"),
    [
        (window(3), 6),  # starts at 0 to 5
        (window(3, before=1, after=1), 8),
        (window(3, stride=2), 3),  # starts at 0, 2, 4
        (window(3, stride=2, before=1), 4),  # -1, 1, 3, 5
        (window(3, dilation=3), 2),  # reaches over 7
        (window(8), 1),
        (window(9), 0),
        (window(20), 0),
        (window(9, after=1), 1),
        (window(1, stride=7), 2),  # 0 and 7
        (window(1, stride=8), 1),
    ],
)
def test_outputs_by_hand(walk: Window, expected: int) -> None:
    assert walk.outputs((8,)) == (expected,)


def test_outputs_of_two_axes() -> None:
    """Each axis has numbers of its own: 6 wide, 7 high."""
    walk = Window((3, 1), (1, 3), (2, 1), (0, 0), (0, 2))
    assert walk.outputs((6, 7)) == (2, 3)  # rows 0 and 1 of a reach of 5; columns 0, 3 and 6 (9 would be outside)


def test_patches_by_hand() -> None:
    x = np.float32([[[1, 2, 3], [10, 20, 30]]])  # one sample, two channels
    chosen = np.array([[True, False, True]])
    # kernel 3 with a zero on either side: what outputs 0 and 2 see, a channel's taps together
    assert patches(window(3, before=1, after=1), x, chosen).tolist() == [[0, 1, 2, 0, 10, 20], [2, 3, 0, 20, 30, 0]]
    assert patches(window(2, dilation=2), x, np.array([[True]])).tolist() == [[1, 3, 10, 30]]
    assert patches(window(1, stride=2), x, np.array([[True, True]])).tolist() == [[1, 10], [3, 30]]
    assert patches(window(2), x, np.zeros((1, 2), np.bool_)).shape == (0, 4)


def test_patches_of_chosen_samples() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    chosen = np.array([[False, True], [False, False], [True, False]])
    assert patches(window(1), x, chosen).tolist() == [[1], [4]]


@settings(deadline=None)
@given(walks())
def test_taps_and_padding(walk: tuple[Window, tuple[int, ...]]) -> None:
    w, sizes = walk
    assert w.taps == prod(w.kernel)
    alone = np.ones((1, 1, *sizes), np.float32)
    everything = np.ones((1, *w.outputs(sizes)), np.bool_)
    if (patches(w, alone, everything) == 0).any():  # only padding adds zeros
        assert w.padded


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ({}, (0, 0, 0, 0)),
        ({"pads": [1, 2, 3, 4]}, (1, 2, 3, 4)),
        ({"auto_pad": "NOTSET", "pads": [1, 0, 0, 0]}, (1, 0, 0, 0)),
        ({"auto_pad": "VALID"}, (0, 0, 0, 0)),
    ],
)
def test_padding_by_numbers(attributes: dict[str, object], pads: tuple[int, ...]) -> None:
    (op,) = weighted_ops(conv(np.ones((1, 1, 3, 3)), (8, 8), **attributes))
    expected = Window((3, 3), (1, 1), (1, 1), pads[:2], pads[2:])
    assert window_of(op.node, (3, 3)) == expected
    assert expected.padded == any(pads)


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_depends_on_the_size(padding: str) -> None:
    (op,) = weighted_ops(conv(np.ones((1, 1, 3, 3)), (8, 8), auto_pad=padding))
    assert window_of(op.node, (3, 3)) is None
