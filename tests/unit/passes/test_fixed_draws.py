"""Draws that are the same in every run, of the distributions that the model names."""

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.passes.fixed_draws import DRAWN, fix_draws
from calib8.runtime.ort import OrtRuntime

FLOAT = ir.DataType.FLOAT


def drawn(model: ir.Model, rows: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of two runs in one session."""
    with OrtRuntime(fix_draws(model)) as runtime:
        feeds = {"x": np.zeros((rows, 100), np.float32)}
        return runtime.compute(feeds), runtime.compute(feeds)


def like(op_type: str, **attributes: float) -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "rows", 100)
    return g.model(
        y=g.op(op_type, x, name="one", **attributes), z=g.op("Neg", g.op(op_type, x, name="other", **attributes))
    )


def test_normal_numbers_are_the_same_in_every_run_and_others_in_each_node() -> None:
    first, second = drawn(like("RandomNormalLike", mean=3.0, scale=0.5), 500)
    np.testing.assert_array_equal(first["y"], second["y"])
    assert first["y"].shape == (500, 100)
    assert abs(first["y"].mean() - 3) < 0.02  # 50,000 numbers: nine standard errors
    assert abs(first["y"].std() - 0.5) < 0.02
    assert abs(np.corrcoef(first["y"].ravel(), first["z"].ravel())[0, 1]) < 0.05


def test_uniform_numbers_fill_their_interval() -> None:
    first, second = drawn(like("RandomUniformLike", low=-1.0, high=3.0), 500)
    np.testing.assert_array_equal(first["y"], second["y"])
    assert -1 <= first["y"].min() < -0.99
    assert 2.99 < first["y"].max() <= 3
    assert abs(first["y"].mean() - 1) < 0.05


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_any_count_of_them(rows: int) -> None:
    y = drawn(like("RandomNormalLike"), rows)[0]["y"]
    assert y.shape == (rows, 100)
    np.testing.assert_array_equal(y.ravel()[DRAWN:], y.ravel()[: max(0, y.size - DRAWN)])


@pytest.mark.parametrize("dtype", [FLOAT, ir.DataType.DOUBLE])
def test_a_shape_of_its_own(dtype: ir.DataType) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "rows", 100)
    y = g.op("RandomNormal", shape=[2, 3], dtype=int(dtype))
    first, second = drawn(g.model(y=y, z=g.op("Relu", x)), 1)
    np.testing.assert_array_equal(first["y"], second["y"])
    assert (first["y"].shape, first["y"].dtype) == ((2, 3), dtype.numpy())


def test_a_model_that_draws_nothing_stays() -> None:
    g = GraphBuilder()
    model = g.model(y=g.op("Relu", g.input("x", FLOAT, "rows", 4)))
    assert [node.op_type for node in fix_draws(model).graph] == ["Relu"]
    assert not model.graph.initializers
