import numpy as np
import onnx_ir as ir
import pytest
from quantised_sites import bypassed, checked, folded_shift, kinds, predicted, quantised

from calib8.graph.builder import GraphBuilder
from calib8.graph.site import Site, sites
from calib8.passes.condition import Conditioning, condition
from calib8.passes.half import to_half
from calib8.passes.prepare import prepare
from calib8.quantization.design import Recipe, design
from calib8.quantization.trials import channels_of
from calib8.testing import outputs_of, tiny_encoder, token_feeds

WIDTH = 8
OUTLIERS = [2, 5]
BIAS = np.float32([1, -2, 3, 0.5])
X = np.random.default_rng(5).normal(size=(9, WIDTH)).astype(np.float32) * np.where(
    np.isin(np.arange(8), OUTLIERS), 50, 1
)
X = (X + np.arange(WIDTH) / 4).astype(np.float32)
SIDE, ALL = Recipe(side=2), Recipe(smooth=0.5, shift=True, split=4.0, side=2)
RECIPES = [SIDE, Recipe(shift=True, side=2), Recipe(smooth=0.3, side=2), ALL]
KINDS = {
    "MatMul": ("MatMul", "none", {}),
    "MatMul, Add": ("MatMul", "add", {}),
    "Gemm": ("Gemm", "none", {}),
    "Gemm with C": ("Gemm", "C", {}),
    "Gemm with C, transposed": ("Gemm", "C", {"transB": 1}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=str)


def linear(kind: str, bias: str, attributes: dict[str, int]) -> ir.Model:
    """``x`` [batch, 8] -> one op called ``op`` with 4 outputs, its bias where ``bias`` says."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", WIDTH)
    weight = g.weight("w", *((4, WIDTH) if attributes else (WIDTH, 4)))
    own = [] if bias == "none" else [g.constant("b", [10, 20, 30, 40])]
    y = g.op(kind, x, weight, *(own if bias == "C" else []), name="op", **attributes)
    return prepare(g.model(y=g.op("Add", y, *own) if bias == "add" else y))


def designed(site: Site, recipe: Recipe, x: np.ndarray = X) -> Conditioning:
    """Of rows, or of the last axis; the outliers go around INT8."""
    x = x.reshape(-1, x.shape[-1])
    found = design(channels_of(x, 1), np.abs(site.matrix()).max(axis=1), recipe)
    assert found.side.tolist() == OUTLIERS
    return found


def test_what_is_left_out_by_hand() -> None:
    c = Conditioning(np.float32([9, 1, 0, 0, 9]), np.array([1, 2, 2, 3]), np.float32([1, 0.5, 0.5, 2]), 1.0)
    assert c.side.tolist() == [0, 4]
    assert c.extra == 1  # of channel 2
    assert c.moves
    assert c(np.float32([[100, 3, 4, 5, 100]])).tolist() == [[2, 2, 2, 10]]
    # (3 - 1) x 8 + 4 x 1 + 5 x 6 = 2 x 8 + 2 x 1 + 2 x 1 + 10 x 3, whatever the rows left out are
    assert c.weight(np.float32([[77], [8], [1], [6], [77]])).ravel().tolist() == [8, 1, 1, 3]


def test_spread_by_hand() -> None:
    c = Conditioning(np.float32([1, 2]), np.array([1, 0, 0]), np.float32([3, 4, 5]), 7.0)
    spread = c.spread(2)
    assert spread.shift.tolist() == [1, 1, 2, 2]
    assert spread.index.tolist() == [2, 3, 0, 1, 0, 1]
    assert spread.multiplier.tolist() == [3, 3, 4, 4, 5, 5]
    assert spread.amax == 7
    # channel 0 holds (10, 20), channel 1 (30, 40)
    assert spread(np.float32([[10, 20, 30, 40]])).tolist() == [[84, 114, 36, 76, 45, 95]]
    assert c.spread(1).index.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("shift", "index", "multiplier", "moves"),
    [
        ([0, 0], [0, 1], [1, 1], False),
        ([1, 0], [0, 1], [1, 1], False),
        ([0, 0], [0, 1], [1, 2], False),
        ([0, 0], [1, 0], [1, 1], True),
        ([0, 0], [0], [1], True),
        ([0, 0], [0, 1, 1], [1, 1, 1], True),
    ],
)
def test_what_moves_channels(shift: list[float], index: list[int], multiplier: list[float], moves: bool) -> None:
    assert Conditioning(np.float32(shift), np.array(index), np.float32(multiplier), 1.0).moves == moves


@each_kind
@each_recipe
def test_with_q_and_dq_bypassed_a_side_branch_changes_nothing(kind: str, recipe: Recipe) -> None:
    original = linear(*KINDS[kind])
    model = original.clone()
    (site,) = sites(model)
    c = designed(site, recipe)
    condition(model, site, quantised(site, c, folded_shift(site, c)))
    expected, got = outputs_of(original, {"x": X})["y"], outputs_of(bypassed(model, site, c), {"x": X})["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@each_kind
@each_recipe
@pytest.mark.parametrize("correction", [0, BIAS], ids=["none", "some"])
def test_onnx_runtime_agrees_with_integers(kind: str, recipe: Recipe, correction: np.ndarray | int) -> None:
    model = linear(*KINDS[kind])
    own = 0 if KINDS[kind][1] == "none" else np.float32([10, 20, 30, 40])
    (site,) = sites(model)
    q = quantised(site, designed(site, recipe), correction)
    expected = predicted(site, X, q) + own
    got = outputs_of(checked(condition(model, site, q)), {"x": X})
    assert list(got) == ["y"]
    np.testing.assert_allclose(got["y"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert "w" not in model.graph.initializers


def test_what_is_written() -> None:
    model = linear(*KINDS["MatMul"])
    (site,) = sites(model)
    condition(model, site, quantised(site, designed(site, SIDE), 0))
    assert sorted(kinds(model)) == sorted(
        ["Gather", "QuantizeLinear", *["DequantizeLinear"] * 2, *["MatMul"] * 2, "Add"]
    )
    codes = model.graph.initializers["w_quantized"].const_value.numpy()
    assert [not row.any() for row in codes] == [channel in OUTLIERS for channel in range(WIDTH)]
    assert model.graph.initializers["x_side"].const_value.numpy().tolist() == OUTLIERS
    kept = model.graph.initializers["op_side_weight"].const_value.numpy()
    np.testing.assert_array_equal(kept, site.matrix()[OUTLIERS])
    assert next(
        value for node in model.graph for value in node.outputs if value.name == "x_outliers"
    ).shape == ir.Shape(["batch", 2])


def test_three_readers_share_one_gather() -> None:
    original = prepare(tiny_encoder())
    feeds = token_feeds(3, 7, 12)
    model = original.clone()
    site = sites(model)[0]
    assert len(site.ops) == 3
    c = Conditioning(np.zeros(8, np.float32), np.array([0, 1, 3, 4, 6, 7]), np.ones(6, np.float32), 4.0)
    condition(model, site, quantised(site, c, np.zeros(1)))
    added = [node for node in model.graph if node.op_type == "Gather" and "norm0_out" in (node.name or "")]
    assert len(added) == 1  # of what goes around INT8
    readers = [
        node for node in model.graph if any(v is not None and v.name == "norm0_out_outliers" for v in node.inputs)
    ]
    assert [node.op_type for node in readers] == ["MatMul"] * 3
    expected = outputs_of(original, feeds)["last_hidden_state"]
    got = outputs_of(bypassed(model, site, c), feeds)["last_hidden_state"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_readers_of_several_kinds_on_three_axes() -> None:
    """An op whose product is an output and read again, one with a bias, and a rank that MatMul alone takes."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", "sequence", WIDTH)
    a = g.op("MatMul", x, g.weight("a.w", WIDTH, 4), name="a")
    b = g.op("Add", g.op("MatMul", x, g.weight("b.w", WIDTH, 3), name="b"), g.constant("bias", [1, 2, 3]))
    original = prepare(g.model(y=a, z=b, n=g.op("Neg", a)))
    model, rows = original.clone(), X[None]
    (site,) = sites(model)
    c = designed(site, ALL, rows)
    q = quantised(site, c, folded_shift(site, c))
    expected = predicted(site, rows, q)
    got = outputs_of(checked(condition(model, site, q)), {"x": rows})
    assert list(got) == ["y", "z", "n"]
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(got["y"][0], expected[:, :4], rtol=0, atol=atol)
    np.testing.assert_allclose(got["z"][0], expected[:, 4:] + [1, 2, 3], rtol=0, atol=atol)
    np.testing.assert_allclose(got["n"], -got["y"], rtol=0, atol=0)
    floats, undone = (outputs_of(m, {"x": rows}) for m in (original, bypassed(model, site, c)))
    for name in "yzn":
        np.testing.assert_allclose(undone[name], floats[name], rtol=0, atol=atol)


def test_in_half() -> None:
    """Beside the INT8 GEMM the branch computes in FP16, behind a chain in FP32."""
    model = linear(*KINDS["MatMul, Add"])
    (site,) = sites(model)
    q = quantised(site, designed(site, ALL), BIAS)
    expected = predicted(site, X, q) + np.float32([10, 20, 30, 40])
    got = outputs_of(checked(to_half(condition(model, site, q))), {"x": X})["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=4e-3 * np.abs(expected).max())
    side = next(node for node in model.graph if node.name == "op_Side")
    assert side.outputs[0].dtype == ir.DataType.FLOAT16
