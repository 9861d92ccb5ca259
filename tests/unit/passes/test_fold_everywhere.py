"""Conditioning folded where others read the tensor too, into GEMMs, and back through attention; by hand and exactly."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.graph.builder import GraphBuilder
from calib8.passes.fold_conditioning import Foldable, fold_conditioning, foldable
from calib8.passes.half import CONDITIONING
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

FLOAT = ir.DataType.FLOAT
GAMMA, BETA = np.float32([1, 2, 3, 4]), np.float32([0.5, -1, 0, 8])
SHIFT, MULTIPLIER = np.float32([1, 0, -2, 3]), np.float32([2, 0.5, 4, 1])
X = np.float32([[1, 2, 3, 4], [-3, 0, 7, 0.5]])


class Chained(GraphBuilder):
    """A builder that conditions values as ``condition`` does."""

    def chain(self, x: ir.Value, shift=None, multiplier=None) -> ir.Value:
        for kind, array in (("Sub", shift), ("Mul", multiplier)):
            if array is not None:
                x = self.op(kind, x, self.constant(f"{kind}_{len(self.nodes)}", array), name=f"chained_{kind}")
        return x

    def finished(self, **outputs: ir.Value) -> ir.Model:
        model = prepare(self.model(**outputs))
        for node in model.graph:
            if node.name.startswith("chained"):
                node.meta[CONDITIONING] = True
        return model


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def constants(model: ir.Model, node: str, index: int) -> list:
    value = next(n for n in model.graph if n.name == node).inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().tolist()


def folded(model: ir.Model, feeds: dict[str, np.ndarray], *, everywhere: bool = True) -> ir.Model:
    """``model`` after the pass, which is valid and computes the same."""
    before = outputs_of(model, feeds)
    fold_conditioning(model, everywhere=everywhere)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = outputs_of(model, feeds)
    assert list(before) == list(after)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=2e-5 * max(1, np.abs(array).max()), err_msg=name)
    return model


def shared_norm(**chain: np.ndarray) -> ir.Model:
    """``y`` is behind the chain, ``r`` a residual, ``s`` the shape."""
    g = Chained()
    x = g.input("x", FLOAT, "batch", 4)
    normal = g.op("LayerNormalization", x, g.constant("gamma", GAMMA), g.constant("beta", BETA), name="norm")
    outputs = {"r": g.op("Add", normal, x, name="residual"), "n": g.op("Neg", normal), "s": g.op("Shape", normal)}
    return g.finished(y=g.op("Relu", g.chain(normal, **chain)), **outputs)


def test_a_residual_gets_its_numbers_back_by_one_mul() -> None:
    model = folded(shared_norm(multiplier=MULTIPLIER), {"x": X})
    assert constants(model, "norm", 1) == [2, 1, 12, 4]
    assert constants(model, "norm", 2) == [1, -0.5, 0, 8]
    (undo,) = [node for node in model.graph if node.op_type == "Mul"]
    assert undo.inputs[1].const_value.numpy().tolist() == [0.5, 2, 0.25, 1]
    # the residual and Neg read it, under the old name; Relu reads the norm itself, under the chain's
    assert sorted(reader.op_type for reader, _ in undo.outputs[0].uses()) == ["Add", "Neg"]
    assert undo.outputs[0].name == "norm_out"
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    assert norm.outputs[0].name == "chained_Mul_out"
    assert sorted(reader.op_type for reader, _ in norm.outputs[0].uses()) == ["Mul", "Relu", "Shape"]


def test_shift_and_multiplier_are_undone_in_reverse() -> None:
    model = folded(shared_norm(shift=SHIFT, multiplier=MULTIPLIER), {"x": X})
    assert constants(model, "norm", 2) == [-1, -0.5, 8, 5]  # as in test_fold_conditioning
    residual = next(node for node in model.graph if node.name == "residual").inputs[0].producer()
    assert residual.op_type == "Add"
    assert residual.inputs[1].const_value.numpy().tolist() == SHIFT.tolist()
    assert residual.inputs[0].producer().inputs[1].const_value.numpy().tolist() == [0.5, 2, 0.25, 1]


def test_others_keep_a_chain_where_it_is_unless_asked() -> None:
    model = shared_norm(shift=SHIFT, multiplier=MULTIPLIER)
    before = kinds(model)
    assert kinds(folded(model, {"x": X}, everywhere=False)) == before


@pytest.mark.parametrize("between", ["", "Reshape"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_float_product_beside_undoes_it_by_itself(between: str, bias: bool) -> None:
    """As the columns of a side branch do; also where channels move before it."""
    g = Chained()
    x = g.input("x", FLOAT, "batch", 4)
    normal = g.op("LayerNormalization", x, g.constant("gamma", GAMMA), g.constant("beta", BETA), name="norm")
    if between:
        normal = g.op("Reshape", normal, g.constant("shape", [-1, 4], np.int64))
    side = g.op("MatMul", normal, g.constant("w", np.arange(8).reshape(4, 2)), name="side")
    side = g.op("Add", side, g.constant("b", [10, 20]), name="sum") if bias else side
    shift = SHIFT if bias else None
    model = folded(g.finished(y=g.op("Relu", g.chain(normal, shift, MULTIPLIER)), z=g.op("Neg", side)), {"x": X})
    assert {"Sub", "Mul"}.isdisjoint(kinds(model))
    assert kinds(model).count("Add") == bias
    # rows [0 1] [2 3] [4 5] [6 7] over 2, 0.5, 4 and 1
    assert constants(model, "side", 1) == [[0, 0.5], [4, 6], [1, 1.25], [6, 7]]
    if bias:  # 1 * [0 1] + 0 * [2 3] - 2 * [4 5] + 3 * [6 7]
        assert constants(model, "sum", 1) == [10 + 10, 20 + 12]


def test_a_float_product_without_bias_gets_its_shift_back() -> None:
    g = Chained()
    x = g.input("x", FLOAT, "batch", 4)
    normal = g.op("LayerNormalization", x, g.constant("gamma", GAMMA), g.constant("beta", BETA), name="norm")
    side = g.op("MatMul", normal, g.constant("w", np.arange(8).reshape(4, 2)), name="side")
    model = folded(g.finished(y=g.op("Relu", g.chain(normal, SHIFT, MULTIPLIER)), z=side), {"x": X})
    assert sorted(kinds(model)) == ["Add", "LayerNormalization", "MatMul", "Mul", "Relu"]


def test_channels_of_a_conv_are_not_those_of_a_norm_as_wide() -> None:
    g = Chained()
    x = g.input("x", FLOAT, "batch", 4, 3, 4)
    normal = g.op("LayerNormalization", x, g.constant("gamma", GAMMA), g.constant("beta", BETA), name="norm")
    model = g.finished(y=g.op("Relu", g.chain(normal, SHIFT.reshape(4, 1, 1), MULTIPLIER.reshape(4, 1, 1))))
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 3, 4)).astype(np.float32)}
    assert kinds(folded(model, feeds)) == ["LayerNormalization", "Sub", "Mul", "Relu"]


def test_a_tensor_that_is_an_output_keeps_its_numbers() -> None:
    g = Chained()
    x = g.input("x", FLOAT, "batch", 4)
    normal = g.op("LayerNormalization", x, g.constant("gamma", GAMMA), name="norm")
    model = g.finished(y=g.op("Relu", g.chain(normal, multiplier=MULTIPLIER)), n=normal)
    before = kinds(model)
    assert kinds(folded(model, {"x": X})) == before


def gemm(kind: str) -> ir.Model:
    g = Chained()
    x = g.input("x", FLOAT, "batch", 4)
    weight, bias = g.constant("w", np.arange(16).reshape(4, 4)), g.constant("b", BETA)
    if kind == "MatMul of codes":
        codes, scale = g.constant("codes", np.arange(16).reshape(4, 4), np.int8), g.constant("scale", GAMMA)
        weight = g.op("DequantizeLinear", codes, scale, axis=1, name="weight")
    if kind.startswith("Gemm"):
        y = g.op("Gemm", x, weight, bias, name="product", **({"transB": 1} if "transB" in kind else {}))
    else:
        y = g.op("MatMul", x, weight, name="product")
        y = y if "without" in kind else g.op("Add", bias, y, name="sum")
    return g.finished(y=g.chain(y, SHIFT, MULTIPLIER))


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("MatMul", ["MatMul", "Add"]),
        ("MatMul of codes", ["DequantizeLinear", "MatMul", "Add"]),
        ("Gemm", ["Gemm"]),
        ("Gemm transB", ["Gemm", "Sub", "Mul"]),
        ("MatMul without bias", ["MatMul", "Sub", "Mul"]),
    ],
)
def test_a_gemm_takes_them_into_its_columns(kind: str, left: list[str]) -> None:
    model = folded(gemm(kind), {"x": X})
    assert kinds(model) == left
    if kind == "MatMul":
        # column j is 4i + j times the multiplier
        assert constants(model, "product", 1)[1] == [8, 2.5, 24, 7]
        assert constants(model, "sum", 0) == [-1, -0.5, 8, 5]
    if kind == "MatMul of codes":  # the codes are what they were
        assert constants(model, "weight", 0)[3] == [12, 13, 14, 15]
        assert constants(model, "weight", 1) == [2, 1, 12, 4]
    if kind == "Gemm":
        assert constants(model, "product", 2) == [-1, -0.5, 8, 5]
    same = gemm(kind)
    before = kinds(same)
    if "sum_out" in {node.outputs[0].name for node in same.graph}:
        before.remove("Sub")  # an Add alone takes the shift, whatever is before it
    assert kinds(folded(same, {"x": X}, everywhere=False)) == before


def test_by_default_the_sum_behind_a_gemm_takes_the_shift() -> None:
    model = folded(gemm("MatMul"), {"x": X}, everywhere=False)
    assert kinds(model) == ["MatMul", "Add", "Mul"]
    assert constants(model, "sum", 0) == [-0.5, -1, 2, 5]  # BETA - SHIFT
    assert next(node for node in model.graph if node.name == "sum").meta[CONDITIONING]  # in FP32
    assert constants(model, "product", 1)[1] == [4, 5, 6, 7]


def attention(
    shift: np.ndarray | None,
    multiplier: np.ndarray | None,
    *,
    heads: int = 2,
    weights: str = "softmax",
    read: str = "",
    shared: bool = False,
    quantised: bool = False,
) -> ir.Model:
    """``y`` is attention's output behind a chain. ``shared``: one V for all heads; ``read``: also an output."""
    width = len(multiplier if multiplier is not None else shift)
    g, size = Chained(), width // heads
    x, scores = (
        g.input("x", FLOAT, "batch", "sequence", 4),
        g.input("scores", FLOAT, "batch", heads, "sequence", "past"),
    )
    columns = size if shared else width
    weight = g.weight("v.weight", 4, columns)
    if quantised:
        codes = g.constant("codes", g.random.integers(-127, 128, (4, columns)), np.int8)
        weight = g.op("DequantizeLinear", codes, g.constant("scale", g.random.uniform(0.01, 0.1, columns)), axis=1)
    v = g.op("Add", g.op("MatMul", x, weight, name="v"), g.weight("v.bias", columns), name="bias")
    parted = g.op("Reshape", v, g.constant("part", [0, 0, 1 if shared else heads, size], np.int64), name="parted")
    moved = g.op("Transpose", parted, perm=[0, 2, 1, 3], name="moved")
    softmax = {"softmax": -1, "other axis": 2}.get(weights)
    p = g.op("Sigmoid", scores) if softmax is None else g.op("Softmax", scores, axis=softmax)
    context = g.op("Transpose", g.op("MatMul", p, moved, name="context"), perm=[0, 2, 1, 3])
    joined = g.op("Reshape", context, g.constant("join", [0, 0, width], np.int64), name="joined")
    outputs = {"z": g.op("Neg", {"v": v, "moved": moved, "joined": joined}[read])} if read else {}
    return g.finished(y=g.op("Relu", g.chain(joined, shift, multiplier)), **outputs)


def attended(heads: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    x, scores = random.normal(size=(3, 5, 4)), random.normal(size=(3, heads, 5, 5))
    return {"x": x.astype(np.float32), "scores": scores.astype(np.float32)}


WIDE_SHIFT = np.float32([1, 0, -2, 3, 0.5, 7])
WIDE_MULTIPLIER = np.float32([2, 0.5, 4, 1, 3, 8])


@pytest.mark.parametrize("quantised", [False, True])
def test_attention_is_conditioned_in_v(quantised: bool) -> None:
    plain = attention(WIDE_SHIFT, WIDE_MULTIPLIER, quantised=quantised)
    weight = constants(plain, "v", 1) if not quantised else None
    bias = np.float32(constants(plain, "bias", 1))
    model = folded(plain, attended())
    assert "Sub" not in kinds(model)
    assert "Mul" not in kinds(model)
    if not quantised:
        np.testing.assert_array_equal(constants(model, "v", 1), np.float32(weight) * WIDE_MULTIPLIER)
    np.testing.assert_array_equal(constants(model, "bias", 1), (bias - WIDE_SHIFT) * WIDE_MULTIPLIER)
    named = {value.name for node in model.graph for value in node.outputs}
    assert not named & {"bias_out", "parted_out", "moved_out", "joined_out"}  # no old name stands for new numbers


@given(heads=st.integers(1, 4), size=st.integers(1, 5), seed=st.integers(0, 2**16), quantised=st.booleans())
@settings(max_examples=20, deadline=None)
def test_attention_folded_is_attention_conditioned(heads: int, size: int, seed: int, quantised: bool) -> None:
    random = np.random.default_rng(seed)
    shift = random.normal(size=heads * size).astype(np.float32)
    multiplier = np.exp(random.normal(size=heads * size)).astype(np.float32)
    model = folded(attention(shift, multiplier, heads=heads, quantised=quantised), attended(heads, seed))
    assert {"Sub", "Mul"}.isdisjoint(kinds(model))


@pytest.mark.parametrize(
    "why",
    [
        {"weights": "sigmoid"},  # rows do not sum to 1, and a multiplier cannot pass a shift
        {"weights": "other axis"},
        {"shared": True},
        {"read": "v"},
        {"read": "moved"},
        {"read": "joined"},
    ],
    ids=str,
)
def test_what_keeps_attention_from_being_folded(why: dict) -> None:
    model = folded(attention(WIDE_SHIFT, WIDE_MULTIPLIER, **why), attended())
    assert {"Sub", "Mul"} <= set(kinds(model))


def test_a_factor_passes_weights_that_do_not_sum_to_one() -> None:
    model = folded(attention(None, WIDE_MULTIPLIER, weights="sigmoid"), attended())
    assert "Mul" not in kinds(model)


def test_what_a_planner_may_count_on() -> None:
    def of(model: ir.Model, tensor: str, width: int) -> Foldable:
        value = next(value for node in model.graph for value in node.outputs if value.name == tensor)
        readers = [reader for reader, _ in value.uses() if reader.name.startswith("chained")]
        return foldable(value, width, readers)

    both = Foldable(shift=True, multiplier=True)
    assert of(attention(WIDE_SHIFT, None), "joined_out", 6) == both
    assert of(attention(WIDE_SHIFT, None, weights="sigmoid"), "joined_out", 6) == Foldable(multiplier=True)
    assert of(attention(WIDE_SHIFT, None, shared=True), "joined_out", 6) == Foldable()
    assert of(attention(WIDE_SHIFT, None, read="joined"), "joined_out", 6) == Foldable()
    assert of(shared_norm(shift=SHIFT), "norm_out", 4) == Foldable(multiplier=True)
    assert of(gemm("MatMul"), "sum_out", 4) == both
    assert of(gemm("MatMul without bias"), "product_out", 4) == Foldable(multiplier=True)
