import numpy as np
import onnx_ir as ir
import pytest
from quantised_sites import bypassed, checked, folded_shift, kinds, predicted, quantised

from calib8.graph.builder import GraphBuilder
from calib8.graph.site import Site, sites
from calib8.passes.condition import Conditioning, Quantised, condition
from calib8.passes.half import to_half
from calib8.passes.prepare import prepare
from calib8.quantization.design import Channels, Recipe, design
from calib8.quantization.trials import channels_of
from calib8.testing import outputs_of, tiny_encoder, token_feeds

WIDTH = 6
IDENTITY = Conditioning(np.zeros(WIDTH, np.float32), np.arange(WIDTH), np.ones(WIDTH, np.float32), 4.0)
FULL = Conditioning(
    np.float32([0.5, 0, -1, 0, 0, 2]),
    np.array([0, 1, 1, 1, 2, 3, 4, 5, 5]),
    np.float32([1, 0.25, 0.25, 0.5, 2, 1, 1, 0.5, 0.5]),
    6.0,
)
BIAS = np.float32([1, -2, 3, 0.5])
X = np.random.default_rng(5).normal(size=(7, WIDTH)).astype(np.float32) * 2


def linear(kind: str = "MatMul", bias: str = "none", **attributes: int) -> ir.Model:
    """``x`` [batch, 6] -> one op called ``op`` with 4 channels, its bias where ``bias`` says."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", WIDTH)
    weight = g.weight("w", *((4, WIDTH) if attributes.get("transB") else (WIDTH, 4)))
    own = g.constant("b", [10, 20, 30, 40])
    inputs = {"none": (x, weight), "gemm": (x, weight, own)}.get(bias, (x, weight))
    y = g.op(kind, *inputs, name="op", **attributes)
    if bias in ("left", "right"):
        y = g.op("Add", *((own, y) if bias == "left" else (y, own)), name="add")
    return prepare(g.model(y=y))


def conditioned(
    model: ir.Model, conditioning: Conditioning = FULL, bias: np.ndarray = BIAS
) -> tuple[ir.Model, Site, Quantised]:
    (site,) = sites(model)
    q = quantised(site, conditioning, bias)
    return condition(model, site, q), site, q


def test_rows_and_weights_by_hand() -> None:
    # x - shift = (1, 3); split channel 1 in three: 1/4, 1/4 and 1/2 of it
    conditioning = Conditioning(np.float32([1, 0]), np.array([0, 1, 1]), np.float32([2, 0.25, 0.5]), 1.0)
    assert conditioning(np.float32([[2, 3]])).tolist() == [[2, 0.75, 1.5]]
    # row 0 is halved; row 1 is undone in each copy, and each of the two carries half of it: / (0.25 x 2), / (0.5 x 2)
    assert conditioning.weight(np.float32([[8], [1]])).tolist() == [[4], [2], [1]]
    assert conditioning.extra == 1
    # 2 x 4 + 0.75 x 2 + 1.5 x 1 = 11 = (x - shift) @ w = 1 x 8 + 3 x 1


@pytest.mark.parametrize(
    ("model", "own", "nodes"),
    [
        (linear(), 0, ["MatMul", "Add"]),
        (linear(bias="right"), [10, 20, 30, 40], ["MatMul", "Add"]),
        (linear(bias="left"), [10, 20, 30, 40], ["MatMul", "Add"]),
        (linear("Gemm"), 0, ["Gemm", "Add"]),
        (linear("Gemm", "gemm"), [10, 20, 30, 40], ["Gemm"]),
        (linear("Gemm", "gemm", transB=1), [10, 20, 30, 40], ["Gemm"]),
        (linear("Gemm", "right", transB=1), [10, 20, 30, 40], ["Gemm", "Add", "Add"]),
    ],
    ids=["inserted", "add", "add, bias first", "gemm without C", "C", "C, transposed", "gemm without C, add"],
)
def test_onnx_runtime_agrees_with_numpy(model: ir.Model, own: list[float] | int, nodes: list[str]) -> None:
    model = model.clone()
    float_model = model.clone()
    model, site, q = conditioned(model)
    checked(model)
    chain = ["Sub", "Gather", "Mul", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear"]
    assert kinds(model) == [*chain, *nodes]
    got = outputs_of(model, {"x": X})
    np.testing.assert_allclose(got["y"], predicted(site, X, q) + np.float32(own), rtol=0, atol=1e-5)
    assert "w" not in model.graph.initializers
    assert "b" not in model.graph.initializers or nodes == ["Gemm", "Add", "Add"]
    # the same bias, minus that of exactly undone conditioning, is the float model
    exact = outputs_of(float_model, {"x": X})["y"]
    undone = FULL.shift @ site.matrix()
    assert np.abs(got["y"] - BIAS + undone - exact).max() < 0.25


@pytest.mark.parametrize(
    "recipe", [Recipe(shift=True), Recipe(0.5, True, 0.3), Recipe(0.5), Recipe(split=0.3)], ids=str
)
def test_with_q_and_dq_bypassed_nothing_changes(recipe: Recipe) -> None:
    """The graph in float: codes that are as good as exact, Q and DQ taken out."""
    g = GraphBuilder()
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 128)).astype(np.float32) * np.exp(random.normal(size=128)).astype(np.float32)
    weight = g.weight("w", 128, 5)
    y = g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 128), weight, name="op")
    original = prepare(g.model(y=y))
    model = original.clone()
    (site,) = sites(model)
    matrix = site.matrix()
    c = design(channels_of(x, 1), np.abs(matrix).max(axis=1), recipe)
    condition(model, site, quantised(site, c, folded_shift(site, c)))
    expected, got = outputs_of(original, {"x": x})["y"], outputs_of(bypassed(model, site, c), {"x": x})["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("conditioning", "chain"),
    [
        (IDENTITY, []),
        (Conditioning(FULL.shift, IDENTITY.index, IDENTITY.multiplier, 4.0), ["Sub"]),
        (Conditioning(IDENTITY.shift, IDENTITY.index, np.full(WIDTH, 0.5, np.float32), 4.0), ["Mul"]),
        (Conditioning(IDENTITY.shift, FULL.index, FULL.multiplier, 4.0), ["Gather", "Mul"]),
        (Conditioning(IDENTITY.shift, np.arange(WIDTH)[::-1].copy(), IDENTITY.multiplier, 4.0), ["Gather"]),
        (FULL, ["Sub", "Gather", "Mul"]),
    ],
    ids=["nothing", "shift", "smooth", "split", "reorder", "all"],
)
def test_only_what_does_something_is_written(conditioning: Conditioning, chain: list[str]) -> None:
    model, site, q = conditioned(linear(), conditioning)
    assert kinds(checked(model)) == [*chain, "QuantizeLinear", *["DequantizeLinear"] * 2, "MatMul", "Add"]
    np.testing.assert_allclose(outputs_of(model, {"x": X})["y"], predicted(site, X, q), rtol=0, atol=1e-5)


def test_no_bias_no_add() -> None:
    model, *_ = conditioned(linear(), IDENTITY, np.zeros(4))
    assert "Add" not in kinds(model)


def reaching(channels: int, minimum: float, maximum: float) -> Channels:
    """Channels all alike, evenly spread."""
    ones = np.ones(channels, np.float32)
    return Channels(minimum * ones, (minimum + maximum) / 2 * ones, maximum * ones)


def test_q_k_and_v_share_one_chain(encoder: ir.Model) -> None:
    site = sites(encoder)[0]
    c = design(reaching(8, -2, 3), np.ones(8), Recipe(0.5, True))
    solution = quantised(site, c, BIAS)
    model = checked(condition(encoder, site, solution))
    q, k, v = (next(node for node in model.graph if node.name == name) for name in "qkv")
    assert q.inputs[0] is k.inputs[0] is v.inputs[0]
    assert kinds(model).count("QuantizeLinear") == 1
    assert kinds(model).count("DequantizeLinear") == 4
    assert len({id(node.inputs[1]) for node in (q, k, v)}) == 3
    # each takes its own codes
    for node in (q, k, v):
        codes = node.inputs[1].producer().inputs[0].const_value.numpy()
        np.testing.assert_array_equal(codes, solution.weights[node.name].codes)


def test_an_encoder_keeps_its_meaning() -> None:
    feeds = token_feeds(3, 7, 12)
    model = prepare(tiny_encoder())
    expected = outputs_of(model, feeds)["last_hidden_state"]
    for site in sites(model):
        matrix = site.matrix()
        c = design(reaching(len(matrix), -3, 3.5), np.abs(matrix).max(axis=1), Recipe(0.5, True))
        condition(model, site, quantised(site, c, folded_shift(site, c)))
    got = outputs_of(checked(model), feeds)["last_hidden_state"]
    assert 0 < np.abs(got - expected).max() < 0.2


def test_result_that_is_an_output_keeps_its_name() -> None:
    model, *_ = conditioned(linear())
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert list(outputs_of(model, {"x": X})) == ["y"]


def test_result_with_several_readers() -> None:
    """The constant Add behind the op may not take the bias: the other reader would miss it."""
    g = GraphBuilder()
    product = g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.weight("w", WIDTH, 4), name="op")
    biased = g.op("Add", product, g.constant("b", [10, 20, 30, 40]))
    model, site, q = conditioned(prepare(g.model(y=biased, z=g.op("Neg", product), raw=product)))
    got, expected = outputs_of(checked(model), {"x": X}), predicted(site, X, q)
    np.testing.assert_allclose(got["y"], expected + np.float32([10, 20, 30, 40]), atol=1e-5)
    np.testing.assert_allclose(got["z"], -expected, atol=1e-5)
    np.testing.assert_allclose(got["raw"], expected, atol=1e-5)


@pytest.mark.parametrize("bias", [[7.0], [[1, 2, 3, 4], [5, 6, 7, 8]]], ids=["one for all", "one per row"])
def test_biases_of_other_shapes(bias: list) -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, 2, WIDTH)
    product = g.op("MatMul", x, g.weight("w", WIDTH, 4), name="op")
    added = g.op("Add", product, g.constant("b", bias))
    model, site, q = conditioned(prepare(g.model(y=added)))
    got = outputs_of(checked(model), {"x": X[:2]})["y"]
    np.testing.assert_allclose(got, predicted(site, X[:2], q) + np.float32(bias), atol=1e-5)
    g = GraphBuilder()
    y = g.op("Gemm", g.input("x", ir.DataType.FLOAT, 2, WIDTH), g.weight("w", WIDTH, 4), g.constant("b", bias))
    model, site, q = conditioned(prepare(g.model(y=y)))
    np.testing.assert_allclose(
        outputs_of(checked(model), {"x": X[:2]})["y"], predicted(site, X[:2], q) + np.float32(bias), atol=1e-5
    )


def test_gemm_with_a_computed_c() -> None:
    g = GraphBuilder()
    x, c = g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.input("c", ir.DataType.FLOAT, 4)
    model, site, q = conditioned(prepare(g.model(y=g.op("Gemm", x, g.weight("w", WIDTH, 4), c, name="op"))))
    c_value = np.float32([5, 6, 7, 8])
    got = outputs_of(checked(model), {"x": X, "c": c_value})["y"]
    np.testing.assert_allclose(got, predicted(site, X, q) + c_value, atol=1e-5)


def test_a_residual_add_is_no_bias() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", WIDTH)
    model, site, q = conditioned(prepare(g.model(y=g.op("Add", g.op("MatMul", x, g.weight("w", WIDTH, WIDTH)), x))))
    assert kinds(model).count("Add") == 2
    np.testing.assert_allclose(outputs_of(checked(model), {"x": X})["y"], predicted(site, X, q) + X, atol=1e-5)


def test_bias_shared_by_two_adds() -> None:
    g = GraphBuilder()
    x, bias = g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.constant("b", [10, 20, 30, 40])
    y = g.op("Add", g.op("MatMul", x, g.weight("w", WIDTH, 4), name="op"), bias)
    model, site, q = conditioned(prepare(g.model(y=y, z=g.op("Mul", bias, bias))))
    got = outputs_of(checked(model), {"x": X})
    np.testing.assert_allclose(got["y"], predicted(site, X, q) + np.float32([10, 20, 30, 40]), atol=1e-5)
    assert got["z"].tolist() == [100, 400, 900, 1600]


def test_weight_shared_by_two_readers_of_one_tensor() -> None:
    g = GraphBuilder()
    x, w = g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.weight("w", WIDTH, 4)
    model, site, q = conditioned(prepare(g.model(y=g.op("MatMul", x, w, name="a"), z=g.op("MatMul", x, w, name="b"))))
    got, expected = outputs_of(checked(model), {"x": X}), predicted(site, X, q)
    np.testing.assert_allclose(got["y"], expected[:, :4], atol=1e-5)
    np.testing.assert_allclose(got["z"], expected[:, 4:], atol=1e-5)
    assert "w" not in model.graph.initializers


def test_weight_that_something_else_reads_or_returns() -> None:
    g = GraphBuilder()
    x, w = g.input("x", ir.DataType.FLOAT, "batch", WIDTH), g.weight("w", WIDTH, WIDTH)
    again = g.op("MatMul", g.op("Relu", x), w, name="b")
    model = prepare(g.model(y=g.op("MatMul", x, w, name="a"), z=again, w=w))
    matrix = model.graph.initializers["w"].const_value.numpy()
    site = next(site for site in sites(model) if site.name == "a")
    q = quantised(site, FULL, BIAS)
    got = outputs_of(checked(condition(model, site, q)), {"x": X})
    np.testing.assert_allclose(got["y"], predicted(site, X, q), atol=1e-5)
    np.testing.assert_allclose(got["z"], np.maximum(X, 0) @ matrix, atol=1e-5)
    np.testing.assert_array_equal(got["w"], matrix)


def test_names_that_are_taken() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", WIDTH)
    taken = g.op("Mul", x, g.constant("x_shift", [2] * WIDTH), name="x_shift_applied")
    taken.name = "x_shift_applied"
    other = g.op("Add", taken, g.constant("op_correction", [1] * WIDTH), name="other")
    model, site, q = conditioned(prepare(g.model(y=g.op("MatMul", x, g.weight("w", WIDTH, 4), name="op"), z=other)))
    got = outputs_of(checked(model), {"x": X})
    np.testing.assert_allclose(got["y"], predicted(site, X, q), atol=1e-5)
    np.testing.assert_allclose(got["z"], 2 * X + 1, atol=1e-5)


@pytest.mark.parametrize("produced", [False, True])
def test_the_chain_stays_in_fp32(produced: bool) -> None:
    """After ``to_half``: the chain rounds as it was designed, and FP16 begins behind the GEMM."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", WIDTH)
    x = g.op("Relu", x) if produced else x
    model, site, q = conditioned(
        prepare(g.model(y=g.op("Relu", g.op("MatMul", x, g.weight("w", WIDTH, 4), name="op"))))
    )
    model = checked(to_half(model))
    for node in model.graph:
        if node.op_type in ("Sub", "Gather", "Mul", "QuantizeLinear"):
            assert {value.dtype for value in node.inputs} <= {ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT8}
        if node.op_type in ("Sub", "Gather", "Mul"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT
        if node.op_type in ("MatMul", "Add"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT16
    rows = np.maximum(X, 0).astype(np.float16).astype(np.float32) if produced else X
    got = outputs_of(model, {"x": X})["y"]
    np.testing.assert_allclose(got, np.maximum(predicted(site, rows, q), 0), rtol=2e-3, atol=0.02)


def test_three_axes() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", "sequence", WIDTH)
    model, site, q = conditioned(prepare(g.model(y=g.op("MatMul", x, g.weight("w", WIDTH, 4), name="op"))))
    got = outputs_of(checked(model), {"x": X[None]})["y"]
    np.testing.assert_allclose(got[0], predicted(site, X, q), atol=1e-5)
    gather = next(node for node in model.graph if node.op_type == "Gather")
    assert gather.outputs[0].shape == ir.Shape(["batch", "sequence", 9])
