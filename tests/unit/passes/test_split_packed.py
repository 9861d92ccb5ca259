"""Packed products become products of their own, and the numbers stay."""

from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal

FLOAT = ir.DataType.FLOAT
X = {"x": np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)}


def packed(g: GraphBuilder, width: int = 12) -> ir.Value:
    product = g.op("MatMul", g.input("x", FLOAT, "batch", "n", 4), g.weight("w", 4, width), name="qkv")
    return g.op("Add", product, g.weight("b", width))


def behind(g: GraphBuilder, op_type: str, read: list[ir.Value], outputs: int, **attributes: object) -> list[ir.Value]:
    made = [ir.Value(name=f"part.{number}") for number in range(outputs)]
    g.nodes.append(ir.node(op_type, read, attributes, outputs=made, name="apart"))
    return made


def names(model: ir.Model) -> list[str]:
    return [op.name for op in weighted_ops(model)]


@pytest.mark.parametrize(("sizes", "width"), [([4, 4, 4], 12), ([6, 3, 3], 12), ([4, 4], 8)])
def test_a_split_is_of_products(sizes: list[int], width: int) -> None:
    g = GraphBuilder()
    parts = behind(g, "Split", [packed(g, width), g.constant("sizes", sizes, np.int64)], len(sizes), axis=-1)
    model = g.model(**{f"y{number}": g.op("Relu", part) for number, part in enumerate(parts)})
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert names(prepared) == [f"qkv::{number}" for number in range(len(sizes))]
    assert [op.channels for op in weighted_ops(prepared)] == sizes
    assert "w" not in prepared.graph.initializers


@pytest.mark.parametrize(("bias", "turned"), [("each", False), ("each", True), ("one", False), ("none", True)])
def test_a_gemm_is_split_with_what_it_adds(bias: str, turned: bool) -> None:
    """As GPT-2 has it: tokens flat, and a Reshape in front of the Split."""
    g = GraphBuilder()
    flat = g.op("Reshape", g.input("x", FLOAT, "batch", "n", 4), g.constant("flat", [-1, 4], np.int64))
    weight = g.weight("w", *((12, 4) if turned else (4, 12)))
    given = {"each": np.arange(12.0), "one": [0.5]}
    added = [g.constant("b", given[bias])] if bias in given else []
    product = g.op("Gemm", flat, weight, *added, name="qkv", transB=int(turned), alpha=0.5)
    parts = behind(g, "Split", [g.op("Reshape", product, g.constant("to", [-1, 5, 12], np.int64))], 3, axis=2)
    model = g.model(**{f"y{number}": g.op("Relu", part) for number, part in enumerate(parts)})
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert [(op.name, op.kind, op.channels) for op in weighted_ops(prepared)] == [
        (f"qkv::{number}", "Gemm", 4) for number in range(3)
    ]
    assert ("b" in prepared.graph.initializers) is (bias == "one")


def test_gates_of_a_gemm_stay() -> None:
    """Of a recurrent cell: no Reshape stands between."""
    g = GraphBuilder()
    product = g.op("Gemm", g.input("rows", FLOAT, "batch", 4), g.weight("w", 4, 12), g.weight("b", 12), name="gates")
    parts = behind(g, "Split", [product], 3, axis=1)
    model = g.model(**{f"y{number}": g.op("Sigmoid", part) for number, part in enumerate(parts)})
    assert names(prepare(model)) == ["gates"]


def test_a_gemm_that_adds_what_is_computed_stays() -> None:
    g = GraphBuilder()
    x = g.input("rows", FLOAT, "batch", 4)
    product = g.op("Gemm", x, g.weight("w", 4, 12), g.op("MatMul", x, g.weight("v", 4, 12), name="other"), name="qkv")
    tokens = g.op("Reshape", product, g.constant("to", [-1, 1, 12], np.int64))
    model = g.model(**{f"y{number}": part for number, part in enumerate(behind(g, "Split", [tokens], 3, axis=2))})
    assert names(prepare(model)) == ["other", "qkv"]


def test_a_split_of_the_product_itself_goes() -> None:
    g = GraphBuilder()
    product = g.op("MatMul", g.input("x", FLOAT, "batch", "n", 4), g.weight("w", 4, 12), name="qkv")
    parts = behind(g, "Split", [product], 3, axis=2)
    model = g.model(**{f"y{number}": g.op("Relu", part) for number, part in enumerate(parts)})
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert {node.op_type for node in prepared.graph} == {"MatMul", "Relu"}


def test_heads_that_are_gathered_are_products() -> None:
    g = GraphBuilder()
    heads = g.op("Reshape", packed(g), g.constant("to", [0, 0, 3, 2, 2], np.int64))
    turned = g.op("Transpose", heads, perm=[2, 0, 3, 1, 4])
    parts = [g.op("Gather", turned, g.constant(f"i{number}", number, np.int64), axis=0) for number in range(3)]
    model = g.model(**{f"y{number}": part for number, part in enumerate(parts)})
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert names(prepared) == ["qkv::0", "qkv::1", "qkv::2"]


@pytest.mark.parametrize("width", [12, 13])
def test_what_is_read_whole_too_or_in_odd_parts_stays(width: int) -> None:
    g = GraphBuilder()
    whole = packed(g, width)
    parts = behind(g, "Split", [whole, g.constant("sizes", [5, width - 5], np.int64)], 2, axis=-1)
    outputs = {"y0": g.op("Relu", parts[0]), "y1": g.op("Relu", parts[1])}
    model = g.model(**outputs, **({"y2": g.op("Relu", whole)} if width == 12 else {}))
    assert names(prepare(model)) == (["qkv"] if width == 12 else ["qkv::0", "qkv::1"])


def chunks(g: GraphBuilder, whole: ir.Value, count: int, kept: int) -> list[ir.Value]:
    """The first ``kept`` of ``count`` parts of the last axis, as torch.chunk is traced: bounds out of the shape."""
    size = g.op("Gather", g.op("Shape", whole), g.constant("last", [-1], np.int64))
    more = g.op("Add", size, g.constant("less", [count - 1], np.int64))
    step, axis = g.op("Div", more, g.constant("parts", [count], np.int64)), g.constant("axis", [-1], np.int64)
    bounds = [g.op("Mul", step, g.constant(f"times{number}", [number], np.int64)) for number in range(kept + 1)]
    return [g.op("Slice", whole, start, end, axis) for start, end in pairwise(bounds)]


@pytest.mark.parametrize("kept", [2, 3])
def test_chunks_are_products_though_their_bounds_are_computed(kept: int) -> None:
    g = GraphBuilder()
    model = g.model(**{f"y{number}": part for number, part in enumerate(chunks(g, packed(g), 3, kept))})
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert [(op.name, op.channels) for op in weighted_ops(prepared)] == [(f"qkv::{number}", 4) for number in range(3)]
    assert {node.op_type for node in prepared.graph} == {"MatMul", "Concat", "Add", "Slice"}
    assert [list(output.shape)[-1] for output in prepared.graph.outputs] == [4] * kept


def test_slices_of_odd_sizes_are_products_of_those() -> None:
    g = GraphBuilder()
    whole, axis = packed(g), g.constant("axis", [2], np.int64)
    bounds = [g.constant(f"at{at}", [at], np.int64) for at in (0, 6, -3, 2**62)]
    parts = [g.op("Slice", whole, a, b, axis) for a, b in pairwise(bounds)]
    model = g.model(**{f"y{number}": part for number, part in enumerate(parts)})
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert [op.channels for op in weighted_ops(prepared)] == [6, 3, 3]


def test_the_size_of_another_axis_stays_computed() -> None:
    g = GraphBuilder()
    whole = packed(g)
    length = g.op("Gather", g.op("Shape", whole), g.constant("second", [1], np.int64))
    cut = g.op("Slice", whole, g.constant("zero", [0], np.int64), length, g.constant("axis", [1], np.int64))
    model = g.model(y=cut)
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert [node.op_type for node in prepared.graph] == [node.op_type for node in model.graph]
    assert names(prepared) == ["qkv"]


def test_a_single_column_that_is_broadcast_has_no_known_size() -> None:
    g = GraphBuilder()
    whole = packed(g, 1)
    wide = g.op("Add", whole, g.constant("wide", np.arange(6.0)))
    size = g.op("Gather", g.op("Shape", wide), g.constant("last", [-1], np.int64))
    half = g.op("Div", size, g.constant("two", [2], np.int64))
    part = g.op("Slice", wide, g.constant("zero", [0], np.int64), half, g.constant("axis", [-1], np.int64))
    model = g.model(y=part)
    assert_models_equal(model, prepare(model.clone()), X, atol=1e-6)


@pytest.mark.parametrize("apart", ["Split", "chunks"])
def test_what_the_body_of_an_if_takes_apart_stays(apart: str) -> None:
    g = GraphBuilder()
    whole = packed(g)
    inner = GraphBuilder()
    parts = behind(inner, "Split", [whole], 3, axis=-1) if apart == "Split" else chunks(inner, whole, 3, 3)
    first = inner.op("Relu", parts[0])
    first.type = ir.TensorType(FLOAT)
    branches = [ir.Graph([], [first], nodes=inner.nodes, initializers=inner.constants, name="yes")]
    none = ir.node("Neg", [whole], name="neg")
    none.outputs[0].name, none.outputs[0].type = "negated", ir.TensorType(FLOAT)
    branches.append(ir.Graph([], none.outputs, nodes=[none], name="no"))
    large = g.op("Greater", g.op("ReduceMax", whole, keepdims=0), g.constant("limit", 0.0))
    model = g.model(y=g.op("If", large, then_branch=branches[0], else_branch=branches[1]))
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=1e-6)
    assert names(prepared) == ["qkv"]
