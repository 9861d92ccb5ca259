"""An encoder of MPNet's or BERT's sizes, whose weights are one zero each: for what asks for shapes alone."""

import numpy as np
import onnx_ir as ir

from calib8.graph.builder import GraphBuilder
from calib8.passes.prepare import prepare

WIDTH, HEADS, LAYERS, WORDS = 768, 12, 12, 30_527


def encoder(*, layers: int = LAYERS, bias: bool = True) -> ir.Model:
    """``input_ids``, ``attention_mask`` -> ``tokens`` [batch, sequence, 768]; ``bias``: by position, in attention."""
    g = GraphBuilder()
    ids, mask = (g.input(name, ir.DataType.INT64, "batch", "sequence") for name in ("input_ids", "attention_mask"))
    padded = g.op("Unsqueeze", g.op("Cast", mask, to=1), g.constant("axes", [1, 2], np.int64))
    padded = g.op("Mul", g.op("Sub", padded, g.constant("one", 1.0)), g.constant("far", 1e4))
    size = g.op("Gather", g.op("Shape", ids), g.constant("second", [1], np.int64))
    near = _weight(g, "near", 1, HEADS, 512, 512) if bias else None
    for axis in (2, 3) if near is not None else ():
        begin, along = g.constant(f"begin{axis}", [0], np.int64), g.constant(f"along{axis}", [axis], np.int64)
        near = g.op("Slice", near, begin, size, along)
    x = _norm(g, g.op("Gather", _weight(g, "words", WORDS, WIDTH), ids), "norm")
    for layer in range(layers):
        x = _layer(g, x, padded, near, f"layer{layer}")
    return prepare(g.model(tokens=x))


def _layer(g: GraphBuilder, x: ir.Value, padded: ir.Value, near: ir.Value | None, name: str) -> ir.Value:
    split = g.constant(f"{name}.split", [0, 0, HEADS, WIDTH // HEADS], np.int64)
    q, k, v = (g.op("Reshape", _linear(g, x, WIDTH, WIDTH, f"{name}.{part}"), split) for part in "qkv")
    scores = g.op("MatMul", g.op("Transpose", q, perm=[0, 2, 1, 3]), g.op("Transpose", k, perm=[0, 2, 3, 1]))
    scores = g.op("Div", scores, g.constant(f"{name}.root", 8.0))
    for one in (near, padded):
        scores = scores if one is None else g.op("Add", scores, one)
    heads = g.op("MatMul", g.op("Softmax", scores, axis=-1), g.op("Transpose", v, perm=[0, 2, 1, 3]))
    joined = g.constant(f"{name}.join", [0, 0, WIDTH], np.int64)
    heads = g.op("Reshape", g.op("Transpose", heads, perm=[0, 2, 1, 3]), joined)
    x = _norm(g, g.op("Add", _linear(g, heads, WIDTH, WIDTH, f"{name}.o"), x), f"{name}.norm1")
    up = _linear(g, x, WIDTH, 4 * WIDTH, f"{name}.up")
    erf = g.op("Erf", g.op("Div", up, g.constant(f"{name}.root2", np.sqrt(2.0))))
    half = g.op("Mul", up, g.op("Add", erf, g.constant(f"{name}.one", 1.0)))
    gelu = g.op("Mul", half, g.constant(f"{name}.half", 0.5))
    return _norm(g, g.op("Add", _linear(g, gelu, 4 * WIDTH, WIDTH, f"{name}.down"), x), f"{name}.norm2")


def _linear(g: GraphBuilder, x: ir.Value, rows: int, columns: int, name: str) -> ir.Value:
    return g.op(
        "Add",
        g.op("MatMul", x, _weight(g, f"{name}.weight", rows, columns), name=name),
        _weight(g, f"{name}.bias", columns),
    )


def _norm(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    return g.op(
        "LayerNormalization", x, _weight(g, f"{name}.weight", WIDTH), _weight(g, f"{name}.bias", WIDTH), axis=-1
    )


def _weight(g: GraphBuilder, name: str, *shape: int) -> ir.Value:
    return g.constant(name, np.broadcast_to(np.float32(0), shape))
