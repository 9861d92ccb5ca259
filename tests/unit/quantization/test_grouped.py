import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seen_rows import patches

from calib8.graph.builder import GraphBuilder
from calib8.graph.site import sites
from calib8.passes.prepare import prepare
from calib8.quantization.grouped import Grouped
from calib8.quantization.rounding import gptq, nearest
from calib8.testing import outputs_of

shapes = st.tuples(*[st.integers(1, 5)] * 4)  # groups, channels and outputs of each, rows
seeds = st.integers(0, 2**32 - 1)


def drawn(shape: tuple[int, int, int, int], seed: int) -> tuple[Grouped, np.ndarray]:
    groups, channels, outputs, rows = shape
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(groups * channels, outputs)).astype(np.float32)
    return Grouped(matrix, groups), random.normal(size=(rows, groups * channels)).astype(np.float32)


def test_product_by_hand() -> None:
    # channels 0 and 1 meet outputs 0 to 2, channels 2 and 3 outputs 3 to 5
    weight = Grouped(np.float32([[1, 0, 2], [0, 1, 2], [1, 0, 3], [0, 1, 3]]), 2)
    assert weight.product(np.float32([[1, 2, 3, 4], [0, 1, 0, 0]])).tolist() == [
        [1, 2, 6, 3, 4, 21],
        [0, 1, 2, 0, 0, 0],
    ]
    whole = Grouped(np.float32([[1, 0], [0, 2], [1, 1]]))
    assert whole.product(np.float32([[1, 2, 3]])).tolist() == [[4, 7]]


@given(shapes, seeds)
def test_product_against_a_loop(shape: tuple[int, int, int, int], seed: int) -> None:
    weight, rows = drawn(shape, seed)
    groups, channels, outputs, count = shape
    expected = np.zeros((count, groups * outputs))
    for i in range(count):
        for group in range(groups):
            for n in range(outputs):
                for k in range(channels):
                    at = group * channels + k
                    expected[i, group * outputs + n] += float(rows[i, at]) * float(weight.matrix[at, n])
    np.testing.assert_allclose(weight.product(rows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("groups", "outputs"), [(1, 4), (2, 6), (4, 4), (4, 12)])
def test_product_is_what_a_conv_computes(groups: int, outputs: int) -> None:
    random = np.random.default_rng(0)
    g = GraphBuilder()
    weight = random.integers(-9, 10, (outputs, 4 // groups, 2, 3))
    x = g.input("x", ir.DataType.FLOAT, "batch", 4, 5, 6)
    model = prepare(g.model(y=g.op("Conv", x, g.constant("w", weight), group=groups)))
    (site,) = sites(model)
    images = random.integers(-9, 10, (2, 4, 5, 6)).astype(np.float32)
    expected = outputs_of(model, {"x": images})["y"]
    rows = patches(site.window, images, np.ones((2, 4, 4), np.bool_))
    got = Grouped(site.matrix(), site.groups).product(rows)
    np.testing.assert_array_equal(got, np.moveaxis(expected, 1, -1).reshape(-1, outputs))


@given(shapes, seeds)
def test_blocks_are_rounded_one_by_one(shape: tuple[int, int, int, int], seed: int) -> None:
    weight, rows = drawn(shape, seed)
    groups, channels, outputs, _ = shape
    plain, plain_values = weight.nearest()
    rounded, values = weight.gptq(rows)
    assert plain.codes.shape == rounded.codes.shape == weight.matrix.shape
    assert plain.scale.shape == rounded.scale.shape == (groups * outputs,)
    assert plain_values.groups == values.groups == groups
    for group in range(groups):
        block, own = slice(group * channels, (group + 1) * channels), slice(group * outputs, (group + 1) * outputs)
        alone, x = nearest(weight.matrix[block]), rows[:, block]
        np.testing.assert_array_equal(plain.codes[block], alone.codes)
        np.testing.assert_array_equal(plain.scale[own], alone.scale)
        np.testing.assert_array_equal(plain_values.matrix[block], alone.values())
        alone = gptq(weight.matrix[block], x.T @ x)
        np.testing.assert_array_equal(rounded.codes[block], alone.codes)
        np.testing.assert_array_equal(rounded.scale[own], alone.scale)
        np.testing.assert_array_equal(values.matrix[block], alone.values())
