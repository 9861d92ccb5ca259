import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calib8.numerics import dequantize, quantize, scale_of
from calib8.passes.condition import Conditioning
from calib8.planning.design import PAD, Recipe, _copies, _smoothing, design
from calib8.planning.solve import RECIPES

recipes = st.builds(
    Recipe, smooth=st.sampled_from([0.0, 0.3, 0.5, 1.0]), shift=st.booleans(), split=st.sampled_from([0.0, 0.04, 0.3])
)
seeds = st.integers(0, 2**32 - 1)


def data(seed: int, channels: int = 160, rows: int = 40) -> np.ndarray:
    """Rows whose channels differ in size and place, some with one-sided outliers like a GELU's."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, channels)) * np.exp(random.normal(size=channels) * 2)
    return np.maximum(x, -0.17 * np.abs(x).max(axis=0)).astype(np.float32)


def designed(x: np.ndarray, recipe: Recipe, weight: np.ndarray | None = None) -> Conditioning:
    amax = np.ones(x.shape[1], np.float32) if weight is None else np.abs(weight).max(axis=1)
    return design(x.min(axis=0), x.max(axis=0), amax, recipe)


def through(x: np.ndarray, conditioning: Conditioning) -> np.ndarray:
    """What conditioned rows become on the INT8 grid, the conditioning undone: [n, K'], one column per copy."""
    scale = scale_of(conditioning.amax)
    got = dequantize(quantize(conditioning(x), scale), scale)
    return got / conditioning.multiplier + conditioning.shift[conditioning.index]


def test_copies_by_hand() -> None:
    # 8 1 1 1: the first channel is split until its copies reach no further than the others, then all are equal
    assert _copies(np.array([8.0, 1, 1, 1]), 3).tolist() == [4, 1, 1, 1]
    assert _copies(np.array([8.0, 1, 1, 1]), 7).tolist() == [8, 1, 1, 1]
    # 24 3 3 3 copies reach 1/3 each; three more cannot lower that for all four
    copies = _copies(np.array([8.0, 1, 1, 1]), 32)
    assert copies.sum() == 36
    assert (np.array([8, 1, 1, 1]) / copies).max() == 1 / 3
    assert _copies(np.array([6.0, 3.0]), 1).tolist() == [2, 1]
    assert _copies(np.array([6.0, 3.0]), 0).tolist() == [1, 1]


def test_plain_by_hand() -> None:
    conditioning = design(np.float32([-3, -1]), np.float32([2, 1]), np.float32([1, 1]), Recipe())
    assert conditioning.shift.tolist() == [0, 0]
    assert conditioning.index.tolist() == [0, 1]
    assert conditioning.multiplier.tolist() == [1, 1]
    assert conditioning.amax == 3
    assert conditioning.extra == 0


def test_shift_by_hand() -> None:
    # [0, 254] becomes +-127 around 127: step 1, and the other channel's centre 0.6 is snapped to 1 step
    conditioning = design(np.float32([0, -3.4]), np.float32([254, 4.6]), np.float32([1, 1]), Recipe(shift=True))
    assert conditioning.amax == 127
    assert conditioning.shift.tolist() == [127, 1]


def test_smoothing_by_hand() -> None:
    # reach 4 and 1, weights 1 and 1, alpha 0.5: sqrt(4) = 2 and 1, over their geometric mean sqrt(2)
    got = _smoothing(np.array([4.0, 1.0]), np.ones(2), 0.5)
    np.testing.assert_allclose(got, [np.sqrt(2), 1 / np.sqrt(2)])
    conditioning = design(np.float32([-4, -1]), np.float32([4, 1]), np.float32([1, 1]), Recipe(smooth=0.5))
    np.testing.assert_allclose(conditioning.multiplier, [1 / np.sqrt(2), np.sqrt(2)], rtol=1e-6)
    assert conditioning.amax == pytest.approx(4 / np.sqrt(2))
    # alpha 1 moves all of the range: every channel then reaches as far
    np.testing.assert_allclose(_smoothing(np.array([4.0, 1.0]), np.array([1.0, 9.0]), 1.0), [2, 0.5])
    # alpha 0 is none, whatever the weights
    assert _smoothing(np.array([4.0, 1.0]), np.array([1.0, 9.0]), 0).tolist() == [1, 1]


def test_split_by_hand() -> None:
    # 800 channels, 4 %: 32 extra columns. One channel reaches 33, the rest 1: 33 copies that carry 1 each
    high = np.ones(800, np.float32)
    high[5] = 33
    conditioning = design(-high, high, np.ones(800, np.float32), Recipe(split=0.04))
    assert conditioning.extra == 32
    assert np.bincount(conditioning.index).tolist() == [33 if k == 5 else 1 for k in range(800)]
    assert conditioning.amax == 1
    np.testing.assert_allclose(conditioning.multiplier[conditioning.index == 5], 1 / 33, rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4096), st.sampled_from([0.02, 0.04, 0.1]))
def test_extra_columns_suit_tensor_cores_and_the_budget(channels: int, split: float) -> None:
    reach = np.linspace(1, 9, channels, dtype=np.float32)
    conditioning = design(-reach, reach, np.ones_like(reach), Recipe(split=split))
    assert (channels + conditioning.extra) % PAD == 0
    if channels % PAD:  # what would be padded with zeros anyway
        assert conditioning.extra < PAD
    else:
        assert abs(conditioning.extra - split * channels) <= PAD / 2
    assert len(conditioning.index) == len(conditioning.multiplier) == channels + conditioning.extra


@settings(deadline=None, max_examples=50)
@given(seeds, recipes)
def test_zero_is_represented_exactly(seed: int, recipe: Recipe) -> None:
    """GELU gives nearly zero most of the time, and padding exactly zero."""
    x = data(seed)
    conditioning = designed(x, recipe)
    scale = scale_of(conditioning.amax)
    zero = conditioning(np.zeros((1, x.shape[1]), np.float32))
    # a multiple of the step, up to float32's precision of a multiple below 127
    np.testing.assert_allclose(zero / scale, np.rint(zero / scale), atol=1e-4)
    reached = (x.min(axis=0) <= 0) & (x.max(axis=0) >= 0)
    reach = np.abs(x).max(axis=0)[conditioning.index]
    error = np.abs(through(np.zeros((1, x.shape[1]), np.float32), conditioning)[0]) / reach
    assert error[reached[conditioning.index]].max(initial=0) < 1e-5


@settings(deadline=None, max_examples=50)
@given(seeds, recipes)
def test_the_grid_reaches_what_was_seen(seed: int, recipe: Recipe) -> None:
    x = data(seed)
    conditioning = designed(x, recipe)
    step = scale_of(conditioning.amax) / conditioning.multiplier
    # half a step from rounding, another half where snapping the shift moved the range off its centre
    assert (np.abs(through(x, conditioning) - x[:, conditioning.index]) <= 1.001 * step).all()
    if not recipe.shift:
        assert (np.abs(through(x, conditioning) - x[:, conditioning.index]) <= 0.501 * step).all()


@settings(deadline=None, max_examples=50)
@given(seeds, recipes)
def test_conditioning_changes_nothing_in_float(seed: int, recipe: Recipe) -> None:
    x = data(seed)
    weight = np.random.default_rng(seed).normal(size=(x.shape[1], 5)).astype(np.float32)
    conditioning = designed(x, recipe, weight)
    got = conditioning(x).astype(np.float64) @ conditioning.weight(weight) + conditioning.shift @ weight
    expected = x.astype(np.float64) @ weight
    magnitude = np.abs(x) @ np.abs(weight) + np.abs(conditioning.shift) @ np.abs(weight)
    assert (np.abs(got - expected) <= 1e-4 * magnitude).all()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(-30, 30))
def test_units_do_not_matter(seed: int, exponent: int) -> None:
    """The same data in other units (a power of two, hence exact) gets the same codes."""
    x = data(seed)
    assume(np.abs(x).max() > 0)
    for recipe in RECIPES:
        one, other = designed(x, recipe), designed(np.ldexp(x, exponent), recipe)
        codes = [quantize(c(rows), scale_of(c.amax)) for c, rows in ((one, x), (other, np.ldexp(x, exponent)))]
        assert np.abs(codes[0].astype(int) - codes[1]).max() <= 1  # a tie may round either way
        assert np.mean(codes[0] == codes[1]) > 0.99


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_dead_and_constant_channels(recipe: Recipe) -> None:
    x = data(0)
    x[:, 1], x[:, 2] = 0, 5
    conditioning = designed(x, recipe)
    assert np.isfinite(conditioning.shift).all()
    assert np.isfinite(conditioning.multiplier).all()
    step = scale_of(conditioning.amax) / conditioning.multiplier
    assert (np.abs(through(x, conditioning) - x[:, conditioning.index]) <= 1.001 * step).all()
    nothing = designed(np.zeros((4, 64), np.float32), recipe)
    assert not through(np.zeros((1, 64), np.float32), nothing).any()


def test_recipes_read_well() -> None:
    assert str(Recipe()) == "plain"
    assert str(Recipe(smooth=0.5, shift=True, split=0.04)) == "smooth 0.5 + shift + split 4%"
