"""Tiny models and a comparison, for tests of calib8 and of code that uses it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.data.inputs import Arrays
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import serialized
from calib8.telemetry import onnxruntime

#: Attention masks add this to the score of a padded position.
MASKED = float(np.finfo(np.float32).min)


def tiny_mlp() -> ir.Model:
    """``x`` [batch, 4] -> MatMul, Add, Relu (8 wide) -> Gemm with transB -> ``y`` [batch, 3]."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    hidden = g.op("MatMul", x, g.weight("first.weight", 4, 8), name="first")
    hidden = g.op("Relu", g.op("Add", hidden, g.weight("first.bias", 8)), name="relu")
    y = g.op("Gemm", hidden, g.weight("second.weight", 3, 8), g.weight("second.bias", 3), name="second", transB=1)
    return g.model(y=y)


def tiny_convnet() -> ir.Model:
    """``image`` [batch, 3, 8, 8] -> Conv, Relu (4 channels) -> mean -> Gemm -> ``y`` [batch, 2]."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 3, 8, 8)
    hidden = g.op("Conv", image, g.weight("conv.weight", 4, 3, 3, 3), name="conv", pads=[1, 1, 1, 1])
    hidden = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", hidden)), name="flat")
    return g.model(y=g.op("Gemm", hidden, g.weight("head.weight", 4, 2), name="head"))


def tiny_encoder(*, vocabulary: int = 32, width: int = 8, positions: int = 16, heads: int = 2) -> ir.Model:
    """A one-layer encoder: ``input_ids``, ``attention_mask`` -> ``last_hidden_state`` [batch, sequence, width].

    Positions count from 2 as in MPNet, so that the table has ``positions`` + 2 rows and takes that many tokens.
    """
    g = GraphBuilder()
    ids = g.input("input_ids", ir.DataType.INT64, "batch", "sequence")
    mask = g.input("attention_mask", ir.DataType.INT64, "batch", "sequence")
    counted = g.op("CumSum", mask, g.constant("axis", 1, np.int64), name="count")
    index = g.op("Add", g.op("Mul", counted, mask), g.constant("padding", 1, np.int64), name="position")
    words = g.op("Gather", g.weight("words", vocabulary, width), ids, name="words_of")
    x = _norm(g, g.op("Add", words, g.op("Gather", g.weight("positions", positions + 2, width), index)), width, "norm0")
    x = _norm(g, g.op("Add", x, _attention(g, x, mask, width, heads)), width, "norm1")
    x = _norm(g, g.op("Add", x, _feed_forward(g, x, width)), width, "norm2")
    return g.model(last_hidden_state=x)


def _norm(g: GraphBuilder, x: ir.Value, width: int, name: str) -> ir.Value:
    scale, bias = g.constant(f"{name}.weight", np.ones(width)), g.constant(f"{name}.bias", np.zeros(width))
    return g.op("LayerNormalization", x, scale, bias, name=name, axis=-1)


def _attention(g: GraphBuilder, x: ir.Value, mask: ir.Value, width: int, heads: int) -> ir.Value:
    split = g.constant("split", [0, 0, heads, width // heads], np.int64)
    q, k, v = (
        g.op("Reshape", g.op("MatMul", x, g.weight(f"{name}.weight", width, width), name=name), split)
        for name in ("q", "k", "v")
    )
    scores = g.op("MatMul", g.op("Transpose", q, perm=[0, 2, 1, 3]), g.op("Transpose", k, perm=[0, 2, 3, 1]))
    scores = g.op("Div", scores, g.constant("root", np.sqrt(width / heads)))
    padded = g.op("Sub", g.constant("one", 1.0), g.op("Cast", mask, to=int(ir.DataType.FLOAT)))
    padded = g.op("Unsqueeze", padded, g.constant("mask_axes", [1, 2], np.int64))
    scores = g.op("Add", scores, g.op("Mul", padded, g.constant("masked", MASKED)))
    context = g.op("MatMul", g.op("Softmax", scores, axis=-1), g.op("Transpose", v, perm=[0, 2, 1, 3]))
    joined = g.op("Transpose", context, perm=[0, 2, 1, 3])
    joined = g.op("Reshape", joined, g.constant("join", [0, 0, width], np.int64))
    return g.op("MatMul", joined, g.weight("o.weight", width, width), name="o")


def _feed_forward(g: GraphBuilder, x: ir.Value, width: int) -> ir.Value:
    up = g.op(
        "Add", g.op("MatMul", x, g.weight("up.weight", width, 2 * width), name="up"), g.weight("up.bias", 2 * width)
    )
    erf = g.op("Erf", g.op("Div", up, g.constant("root2", np.sqrt(2.0))))
    gelu = g.op("Mul", g.op("Mul", up, g.op("Add", erf, g.constant("gelu_one", 1.0))), g.constant("half", 0.5))
    return g.op("MatMul", gelu, g.weight("down.weight", 2 * width, width), name="down")


def token_feeds(*lengths: int, vocabulary: int = 32, seed: int = 0) -> Arrays:
    """Random ``input_ids`` and the ``attention_mask`` for sentences of these lengths, padded to the longest."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(2, vocabulary, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask}


def outputs_of(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What ONNX Runtime computes, node by node as the graph says: without optimisation, hence without fused kernels."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_models_equal(a: ir.Model, b: ir.Model, feeds: Mapping[str, NDArray[Any]], atol: float) -> None:
    """Assert that both models have the same outputs, of the same types and shapes, finite, and within ``atol``."""
    expected, got = outputs_of(a, feeds), outputs_of(b, feeds)
    assert expected, "a model without outputs equals nothing"
    assert list(expected) == list(got), f"outputs {list(expected)} and {list(got)}"
    for name in expected:
        kinds = [(array.dtype.name, array.shape) for array in (expected[name], got[name])]
        assert kinds[0] == kinds[1], f"output {name!r} is {kinds[0]} and {kinds[1]}"
        assert np.isfinite(expected[name]).all(), f"output {name!r} of the first model is not finite"
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=atol, err_msg=name)
