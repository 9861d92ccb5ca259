"""What the graph knows of the size of its tensors, and caches that contradict it."""

import math

import numpy as np
import onnx_ir as ir
import pytest

from calib8.caches.cache import Cache, cache_of
from calib8.calibration.bounds import bounds, require_plausible, require_scales
from calib8.errors import CacheError
from calib8.graph.builder import GraphBuilder
from calib8.passes.prepare import prepare
from calib8.testing import tiny_mlp


def bounded() -> ir.Model:
    """Every kind of tensor whose size the graph knows, and ``free_out`` and ``half_open_out``, which it does not."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    gamma, beta = g.constant("gamma", [1, -3, 2, 0]), g.constant("beta", [5, 1, 0, 0])
    low, high = g.constant("low", -8.0), g.constant("high", 6.0)
    g.op("Sigmoid", x, name="sigmoid")
    g.op("Softmax", x, name="softmax", axis=-1)
    g.op("Clip", x, low, high, name="clip")
    g.op("Clip", x, low, name="half_open")
    g.op("LayerNormalization", x, gamma, beta, name="norm", axis=-1)
    g.op("LayerNormalization", x, gamma, name="bare_norm", axis=-1)
    return g.model(y=g.op("Relu", g.op("MatMul", x, g.constant("w", np.full((4, 2), -9)), name="free")))


def test_bounds_worked_out_by_hand() -> None:
    model = bounded()
    names = {value.name: 0 for node in model.graph for value in node.outputs} | {"w": 0, "absent": 0}
    assert dict(bounds(model, names)) == {
        "w": 9.0,
        "sigmoid_out": 1.0,
        "softmax_out": 1.0,
        "clip_out": 8.0,
        "norm_out": 7.0,  # of 4 numbers: 1 x 2 + 5, 3 x 2 + 1
        "bare_norm_out": 6.0,
    }
    x = np.eye(4, dtype=np.float32)[1] * 1e6  # the farthest that one of 4 can be: sqrt(3)
    normed = (x - x.mean()) / x.std()
    assert np.abs(normed).max() == pytest.approx(math.sqrt(3))


def inverted(cache: Cache) -> Cache:
    return cache.with_scales({name: 1 / scale for name, scale in cache.scales.items()})


def test_inverse_scales_are_recognised(notes) -> None:
    cache = cache_of({"sigmoid_out": 1.0002, "norm_out": 6.9, "free_out": 30.0})
    require_scales(bounded(), cache, notes)
    message = (
        r"holds 1 / scale where TensorRT writes the scale, say 2 of 2 tensors whose size is known: 'sigmoid_out' "
        r"cannot exceed 1, so its scale cannot exceed 0\.00787, and the file says 127\..*--inverse-scales"
    )
    with pytest.raises(CacheError, match=message):
        require_scales(bounded(), inverted(cache), notes)
    assert notes.messages == []


def test_one_odd_scale_is_not_an_inverse(notes) -> None:
    """Neither 0.5 nor 1 / 0.5 is a scale of what lies between -1 and 1."""
    require_scales(bounded(), cache_of({"sigmoid_out": 127 * 0.5, "softmax_out": 1.0}), notes)
    require_scales(bounded(), cache_of({"sigmoid_out": 127 * 127, "softmax_out": 1.0, "clip_out": 6.0}), notes)


def test_without_bounds_unusual_scales_are_noted(notes) -> None:
    model, cache = prepare(tiny_mlp()), cache_of({"x": 2.5, "relu_out": 3.0, "first_out": 4.0})
    require_scales(model, cache, notes)
    assert notes.messages == []
    require_scales(model, inverted(cache), notes)
    (message,) = notes.messages
    assert "half of the cache's scales are above 1, which means activations above 127: unusual" in message


def test_ranges_that_no_tensor_fills(notes) -> None:
    model = bounded()
    require_plausible(model, {"sigmoid_out": 1.9, "free_out": 1e5}, notes)
    assert notes.messages == []
    require_plausible(model, {"free_out": 30.0, "sigmoid_out": 16129.0, "clip_out": 900.0}, notes)
    require_plausible(model, {"free_out": 1e9}, notes)
    known, free = notes.messages
    assert "range of 'sigmoid_out' goes to 1.613e+04, but it cannot exceed 1: next to nothing" in known
    assert "(2 such ranges)" in known
    assert "range of 'free_out' goes to 1e+09, but FP16 ends at 6.55e+04" in free
    with pytest.raises(CacheError, match=r"scale of 'free_out' is 1\.7e\+38: no FP32 number fills such a range"):
        require_plausible(model, {"sigmoid_out": 1.0, "free_out": 127 * 1.7e38}, notes)
