from dataclasses import dataclass

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
from calib8.testing import outputs_of

CHANNELS, SIZES = 8, (6, 5)
BIAS = np.float32([1, -2, 3, 0.5])
SMOOTH, SHIFT, SPLIT = Recipe(smooth=0.5), Recipe(shift=True), Recipe(split=4.0)
ALL = Recipe(smooth=0.5, shift=True, split=4.0)


@dataclass(frozen=True)
class Case:
    """A Conv that reads 8 channels."""

    kernel: tuple[int, ...]
    groups: int = 1
    outputs: int = 4
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None

    def model(self, bias: bool) -> ir.Model:
        g = GraphBuilder()
        x = g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, *SIZES[: len(self.kernel)])
        inputs = [x, g.weight("w", self.outputs, CHANNELS // self.groups, *self.kernel)]
        inputs += [g.weight("b", self.outputs)] if bias else []
        given = {name: getattr(self, name) for name in ("pads", "strides", "dilations") if getattr(self, name)}
        return prepare(g.model(y=g.op("Conv", *inputs, name="op", group=self.groups, **given)))

    def x(self) -> np.ndarray:
        """Channels that differ in size and place."""
        random = np.random.default_rng(3)
        x = random.normal(size=(2, *SIZES[: len(self.kernel)], CHANNELS)) * np.exp(random.normal(size=CHANNELS))
        return np.moveaxis(x + random.normal(size=CHANNELS), -1, 1).astype(np.float32)


POINT, PLAIN, LINE = Case((1, 1)), Case((3, 3)), Case((3,), dilations=(2,))
PADDED = Case((3, 3), pads=(1, 1, 1, 1), strides=(2, 2))
GROUPED, DEPTHWISE = Case((3, 3), groups=2), Case((3, 3), groups=8, outputs=16)
PADDED_DEPTHWISE = Case((3, 3), groups=8, outputs=8, pads=(1, 0, 1, 2))
CASES = [
    *[(POINT, recipe) for recipe in (SMOOTH, SHIFT, SPLIT, ALL)],
    *[(PLAIN, recipe) for recipe in (SMOOTH, SHIFT, SPLIT, ALL)],
    *[(LINE, recipe) for recipe in (SHIFT, ALL)],
    *[(PADDED, recipe) for recipe in (SMOOTH, SPLIT, Recipe(smooth=0.5, split=4.0))],
    *[(GROUPED, recipe) for recipe in (SMOOTH, SHIFT, Recipe(smooth=0.5, shift=True))],
    *[(DEPTHWISE, recipe) for recipe in (SMOOTH, SHIFT, Recipe(smooth=0.5, shift=True))],
    (PADDED_DEPTHWISE, SMOOTH),
]
each_case = pytest.mark.parametrize(("case", "recipe"), CASES, ids=[f"{c.kernel} {c.groups} {r}" for c, r in CASES])


def designed(site: Site, x: np.ndarray, recipe: Recipe) -> Conditioning:
    amax = np.abs(site.matrix()).reshape(x.shape[1], -1).max(axis=1)
    found = design(channels_of(as_rows(x), 1), amax, recipe)
    assert bool(found.shift.any()) == recipe.shift
    assert (found.extra > 0) == (recipe.split > 0)
    return found


def as_rows(y: np.ndarray) -> np.ndarray:
    return np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])


@each_case
@pytest.mark.parametrize("bias", [False, True])
def test_with_q_and_dq_bypassed_a_conv_stays_what_it_was(case: Case, recipe: Recipe, bias: bool) -> None:
    original, x = case.model(bias), case.x()
    model = original.clone()
    (site,) = sites(model)
    c = designed(site, x, recipe)
    condition(model, site, quantised(site, c, folded_shift(site, c)))
    expected, got = outputs_of(original, {"x": x})["y"], outputs_of(bypassed(model, site, c), {"x": x})["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@each_case
@pytest.mark.parametrize("bias", [False, True])
def test_onnx_runtime_agrees_with_integers(case: Case, recipe: Recipe, bias: bool) -> None:
    model, x = case.model(bias), case.x()
    own = model.graph.initializers["b"].const_value.numpy() if bias else 0
    (site,) = sites(model)
    q = quantised(site, designed(site, x, recipe), BIAS)
    expected = predicted(site, x, q) + own
    got = as_rows(outputs_of(checked(condition(model, site, q)), {"x": x})["y"])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not {"w", "b"} & set(model.graph.initializers)


@pytest.mark.parametrize("bias", [False, True])
def test_what_is_written(bias: bool) -> None:
    """The bias joins the Conv's own, or becomes it: no Add."""
    model, x = PLAIN.model(bias), PLAIN.x()
    (site,) = sites(model)
    condition(model, site, quantised(site, designed(site, x, ALL), BIAS))
    chain = ["Sub", "Gather", "Mul", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear"]
    assert kinds(checked(model)) == [*chain, "Conv"]
    constants = model.graph.initializers
    columns = constants["x_index"].const_value.shape[0]
    assert constants["x_shift"].const_value.shape == (8, 1, 1)
    assert constants["x_multiplier"].const_value.shape == (columns, 1, 1)
    gather = next(node for node in model.graph if node.op_type == "Gather")
    assert gather.attributes.get_int("axis") == 1
    assert gather.outputs[0].shape == ir.Shape(["batch", columns, *SIZES])
    weight = next(node for node in model.graph if node.name == "op").inputs[1].producer()
    assert weight.attributes.get_int("axis") == 0
    assert weight.inputs[0].shape == (4, columns, 3, 3)


def test_no_correction_no_bias() -> None:
    model, x = PADDED.model(bias=False), PADDED.x()
    (site,) = sites(model)
    condition(model, site, quantised(site, designed(site, x, SMOOTH), np.zeros(4)))
    assert len(next(node for node in model.graph if node.name == "op").inputs) == 2


def test_a_computed_bias_stays() -> None:
    g = GraphBuilder()
    x, b = g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, *SIZES), g.input("b", ir.DataType.FLOAT, 4)
    model = prepare(g.model(y=g.op("Conv", x, g.weight("w", 4, CHANNELS, 3, 3), b, name="op")))
    (site,) = sites(model)
    q = quantised(site, designed(site, PLAIN.x(), SHIFT), BIAS)
    own = np.float32([10, 20, 30, 40])
    got = outputs_of(checked(condition(model, site, q)), {"x": PLAIN.x(), "b": own})["y"]
    np.testing.assert_allclose(as_rows(got), predicted(site, PLAIN.x(), q) + own, rtol=0, atol=1e-4)


def test_a_shared_bias_is_left_to_its_other_reader() -> None:
    g = GraphBuilder()
    x, b = g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, *SIZES), g.constant("b", [10, 20, 30, 40])
    y = g.op("Conv", x, g.weight("w", 4, CHANNELS, 3, 3), b, name="op")
    model = prepare(g.model(y=y, z=g.op("Mul", b, b)))
    (site,) = sites(model)
    q = quantised(site, designed(site, PLAIN.x(), SHIFT), BIAS)
    got = outputs_of(checked(condition(model, site, q)), {"x": PLAIN.x()})
    expected = predicted(site, PLAIN.x(), q) + np.float32([10, 20, 30, 40])
    np.testing.assert_allclose(as_rows(got["y"]), expected, rtol=0, atol=1e-4)
    assert got["z"].tolist() == [100, 400, 900, 1600]


def test_two_windows_on_one_tensor_have_a_grid_each() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, *SIZES)
    y = g.op("Conv", x, g.weight("a", 4, CHANNELS, 3, 3), name="wide")
    z = g.op("Conv", x, g.weight("b", 4, CHANNELS, 1, 1), name="narrow")
    model, rows = prepare(g.model(y=y, z=z)), PLAIN.x()
    wide, narrow = sites(model)
    solved = [quantised(s, designed(s, rows, r), BIAS) for s, r in ((wide, ALL), (narrow, SHIFT))]
    expected = [predicted(s, rows, q) for s, q in zip((wide, narrow), solved, strict=True)]
    for site, q in zip((wide, narrow), solved, strict=True):
        condition(model, site, q)
    got = outputs_of(checked(model), {"x": rows})
    for name, array in zip("yz", expected, strict=True):
        np.testing.assert_allclose(as_rows(got[name]), array, rtol=0, atol=1e-4)


def test_equal_windows_share_one_chain() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, *SIZES)
    y, z = (g.op("Conv", x, g.weight(f"{name}.w", 4, CHANNELS, 3, 3), name=name) for name in "ab")
    model, rows = prepare(g.model(y=y, z=z)), PLAIN.x()
    (site,) = sites(model)
    q = quantised(site, designed(site, rows, ALL), BIAS)
    expected = predicted(site, rows, q)
    got = outputs_of(checked(condition(model, site, q)), {"x": rows})
    assert kinds(model).count("QuantizeLinear") == kinds(model).count("Gather") == 1
    np.testing.assert_allclose(as_rows(got["y"]), expected[:, :4], rtol=0, atol=1e-4)
    np.testing.assert_allclose(as_rows(got["z"]), expected[:, 4:], rtol=0, atol=1e-4)


def test_half_leaves_the_chain_alone() -> None:
    model, x = PLAIN.model(bias=True), PLAIN.x()
    own = model.graph.initializers["b"].const_value.numpy()
    (site,) = sites(model)
    q = quantised(site, designed(site, x, ALL), BIAS)
    expected = predicted(site, x, q) + own
    model = checked(to_half(condition(model, site, q)))
    for node in model.graph:
        if node.op_type in ("Sub", "Gather", "Mul"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT
    got = as_rows(outputs_of(model, {"x": x})["y"])
    np.testing.assert_allclose(got, expected, rtol=0, atol=4e-3 * np.abs(expected).max())
