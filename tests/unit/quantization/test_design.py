import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calib8.numerics import dequantize, quantize, scale_of
from calib8.passes.condition import Conditioning
from calib8.quantization.design import PAD, Channels, Recipe, _copies, _smoothing, design
from calib8.quantization.solve import CLIPS, HEAD_ROOM, RECIPES
from calib8.quantization.trials import channels_of

recipes = st.builds(
    Recipe,
    smooth=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    shift=st.booleans(),
    split=st.sampled_from([0.0, 0.04, 0.3]),
    reach=st.sampled_from([1.0, *HEAD_ROOM]),
)
seeds = st.integers(0, 2**32 - 1)


def data(seed: int, channels: int = 160, rows: int = 40) -> np.ndarray:
    """Rows whose channels differ in size and place, some with one-sided outliers like a GELU's."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, channels)) * np.exp(random.normal(size=channels) * 2)
    return np.maximum(x, -0.17 * np.abs(x).max(axis=0)).astype(np.float32)


def designed(x: np.ndarray, recipe: Recipe, weight: np.ndarray | None = None) -> Conditioning:
    amax = np.ones(x.shape[1], np.float32) if weight is None else np.abs(weight).max(axis=1)
    return design(channels_of(x, 1), amax, recipe)


def channels(minimum: list[float], median: list[float], maximum: list[float]) -> Channels:
    return Channels(np.float32(minimum), np.float32(median), np.float32(maximum))


def ones(count: int) -> np.ndarray:
    return np.ones(count, np.float32)


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
    conditioning = design(channels([-3, -1], [0, 0], [2, 1]), ones(2), Recipe())
    assert conditioning.shift.tolist() == [0, 0]
    assert conditioning.index.tolist() == [0, 1]
    assert conditioning.multiplier.tolist() == [1, 1]
    assert conditioning.amax == 3
    assert conditioning.extra == 0


def test_shift_by_hand() -> None:
    # [0, 254] becomes +-127 around 127: step 1. Both channels go as far up from their median as down, hence the other
    # one's grid is centred at its median 0.6, snapped to 1 step
    conditioning = design(channels([0, -3.4], [127, 0.6], [254, 4.6]), ones(2), Recipe(shift=True))
    assert conditioning.amax == 127
    assert conditioning.shift.tolist() == [127, 1]


def test_behind_a_gelu_the_room_is_above() -> None:
    # The first channel fills its grid: [-1, 253] is +-127 around 126, step 1. From their medians, 0, channels go
    # up by 253, 63, 63, 63 and 1, of which the 0.75 quantile is 63, and down by 1. Those that go up 63, and the last,
    # taken to do as they do, have their grid's room at 63 : 1, around 127 * (63 - 1) / (63 + 1) = 123.03.
    seen = channels([-1] * 5, [0] * 5, [253, 63, 63, 63, 1])
    conditioning = design(seen, ones(5), Recipe(shift=True))
    assert conditioning.amax == 127
    assert conditioning.shift.tolist() == [126, 123, 123, 123, 123]
    # what the last channel's grid holds: 126 times what was seen on one side, and what was seen on the other
    assert (123 - 127, 123 + 127) == (-4, 250)
    np.testing.assert_allclose(through(np.full((1, 5), 250, np.float32), conditioning)[0], [250] * 5)
    # mirrored, the room is below
    mirrored = channels([-253, -63, -63, -63, -1], [0] * 5, [1] * 5)
    assert design(mirrored, ones(5), Recipe(shift=True)).shift.tolist() == [-126, -123, -123, -123, -123]


def test_room_does_not_push_out_what_was_seen() -> None:
    # Four channels go up by 254; the last went down by 200 and up by 50, but is taken to go up by 254, too. Around
    # 127 * (254 - 200) / (254 + 200) = 15.1 its grid would end at -112: it must hold -200, hence lies around -73.
    seen = channels([0] * 4 + [-200], [0] * 5, [254] * 4 + [50])
    assert design(seen, ones(5), Recipe(shift=True)).shift.tolist() == [127] * 4 + [-73]


def test_symmetric_tensors_need_no_shift() -> None:
    high = [127, 64, 8, 3, 0.5]
    conditioning = design(channels([-h for h in high], [0] * 5, high), ones(5), Recipe(shift=True))
    assert conditioning.amax == 127
    assert not conditioning.shift.any()


def test_reach_by_hand() -> None:
    # [-1, 253] goes up by 253 and down by 1. Twice as far as needed: +-254, step 2, around 254 * 252 / 254 = 252
    seen = channels([-1], [0], [253])
    wide = design(seen, ones(1), Recipe(shift=True, reach=2.0))
    assert (wide.amax, wide.shift.tolist()) == (254, [252])
    # Half as far: +-63.5, step 0.5, around 63.5 * 252 / 254 = 63: [-0.5, 126.5], the far end is what is clipped
    tight = design(seen, ones(1), Recipe(shift=True, reach=0.5))
    assert (tight.amax, tight.shift.tolist()) == (63.5, [63])
    # Without a shift: 253 either way, times 0.5
    assert design(seen, ones(1), Recipe(reach=0.5)).amax == 126.5


def test_smoothing_by_hand() -> None:
    # reach 4 and 1, weights 1 and 1, alpha 0.5: sqrt(4) = 2 and 1 leave 2 and 1; halved, 4 and 2: the 4 that it was
    np.testing.assert_allclose(_smoothing(np.array([4.0, 1.0]), np.ones(2), 0.5), [1, 0.5])
    # alpha 1 moves all of the range: every channel then reaches as far
    np.testing.assert_allclose(_smoothing(np.array([4.0, 1.0]), np.array([1.0, 9.0]), 1.0), [1, 0.25])
    # alpha 0 is none, whatever the weights
    assert _smoothing(np.array([4.0, 1.0]), np.array([1.0, 9.0]), 0).tolist() == [1, 1]


def test_quiet_channels_are_not_magnified() -> None:
    # Reach 8, 4, 4, 4 and 0.25: the 0.75 quantile is 4, and the last is taken to reach as far. Square roots 2^1.5 and
    # four times 2^1 leave 2^1.5 and 2^1; the largest goes on to reach 8, hence it is divided by 1 and 2^-0.5.
    high = [8, 4, 4, 4, 0.25]
    conditioning = design(channels([-h for h in high], [0] * 5, high), ones(5), Recipe(smooth=0.5))
    np.testing.assert_allclose(conditioning.multiplier, [1] + [2**0.5] * 4, rtol=1e-6)
    assert conditioning.amax == pytest.approx(8)  # the next is 4 / 2^-0.5 = 2^2.5


@settings(max_examples=50)
@given(seeds, st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.integers(0, 150))
def test_smoothing_makes_nothing_larger_than_the_tensor(seed: int, alpha: float, dead: int) -> None:
    """Else what the multipliers are folded into overflows in FP16; rows of weights that are 0 ask for large ones."""
    x = data(seed)
    weight = np.random.default_rng(seed).normal(size=(x.shape[1], 8)).astype(np.float32)
    weight[:dead] = 0
    conditioning = designed(x, Recipe(smooth=alpha), weight)
    assert np.abs(conditioning(x)).max() <= np.abs(x).max() * (1 + 1e-5)
    assert conditioning.amax <= np.abs(x).max() * (1 + 1e-5)


def test_split_by_hand() -> None:
    # 800 channels, 4 %: 32 extra columns. One channel reaches 33, the rest 1: 33 copies that carry 1 each
    high = np.ones(800, np.float32)
    high[5] = 33
    conditioning = design(Channels(-high, 0 * high, high), ones(800), Recipe(split=0.04))
    assert conditioning.extra == 32
    assert np.bincount(conditioning.index).tolist() == [33 if k == 5 else 1 for k in range(800)]
    assert conditioning.amax == 1
    np.testing.assert_allclose(conditioning.multiplier[conditioning.index == 5], 1 / 33, rtol=1e-6)


def test_the_last_columns_are_filled_up_for_free() -> None:
    # 790 channels take 25 x 32 = 800 columns anyway: 10 copies, of which the largest channel gets all
    high = ones(790)
    high[5] = 33
    conditioning = design(Channels(-high, 0 * high, high), ones(790), Recipe(split=0.04))
    assert np.bincount(conditioning.index).tolist() == [11 if k == 5 else 1 for k in range(790)]
    assert conditioning.amax == 3
    assert design(Channels(-high, 0 * high, high), ones(790), Recipe()).extra == 0


@settings(max_examples=50)
@given(st.integers(1, 4096), st.sampled_from([0.02, 0.04, 0.1]))
def test_extra_columns_suit_tensor_cores_and_the_budget(count: int, split: float) -> None:
    reach = np.linspace(1, 9, count, dtype=np.float32)
    conditioning = design(Channels(-reach, 0 * reach, reach), np.ones_like(reach), Recipe(split=split))
    assert (count + conditioning.extra) % PAD == 0
    if count % PAD:  # what would be padded with zeros anyway
        assert conditioning.extra < PAD
    else:
        assert abs(conditioning.extra - split * count) <= PAD / 2
    assert len(conditioning.index) == len(conditioning.multiplier) == count + conditioning.extra


@settings(max_examples=50)
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
    step = scale / conditioning.multiplier
    error = np.abs(through(np.zeros((1, x.shape[1]), np.float32), conditioning)[0]) / step
    assert error[reached[conditioning.index]].max(initial=0) < 1e-4


@settings(max_examples=50)
@given(seeds, recipes)
def test_the_grid_reaches_what_was_seen(seed: int, recipe: Recipe) -> None:
    x = data(seed)
    conditioning = designed(x, recipe)
    step = scale_of(conditioning.amax) / conditioning.multiplier
    # half a step from rounding, another half where snapping the shift moved the range off its centre
    assert (np.abs(through(x, conditioning) - x[:, conditioning.index]) <= 1.001 * step).all()
    if not recipe.shift:
        assert (np.abs(through(x, conditioning) - x[:, conditioning.index]) <= 0.501 * step).all()


def _ends(conditioning: Conditioning) -> tuple[np.ndarray, np.ndarray]:
    """What the grid of each column reaches, as values of its channel."""
    half, centre = conditioning.amax / conditioning.multiplier, conditioning.shift[conditioning.index]
    return centre - half, centre + half


@settings(max_examples=50)
@given(seeds, recipes)
def test_the_grid_holds_what_was_seen(seed: int, recipe: Recipe) -> None:
    x = data(seed)
    conditioning = designed(x, recipe)
    (low, high), half_a_step = _ends(conditioning), 0.501 * scale_of(conditioning.amax) / conditioning.multiplier
    assert (low <= x.min(axis=0)[conditioning.index] + half_a_step).all()  # the shift is snapped
    assert (high >= x.max(axis=0)[conditioning.index] - half_a_step).all()


@settings(max_examples=50)
@given(seeds, st.sampled_from(CLIPS), st.sampled_from([0.0, 0.5]))
def test_a_grid_that_clips_lies_within_the_range(seed: int, reach: float, smooth: float) -> None:
    """It wastes nothing beyond the range of a channel that it cannot hold."""
    x = data(seed)
    conditioning = designed(x, Recipe(smooth=smooth, shift=True, reach=reach))
    (low, high), half_a_step = _ends(conditioning), 0.501 * scale_of(conditioning.amax) / conditioning.multiplier
    short = high - low < np.ptp(x, axis=0)
    assert short.any()
    assert (low >= x.min(axis=0) - half_a_step)[short].all()
    assert (high <= x.max(axis=0) + half_a_step)[short].all()


@settings(max_examples=50)
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


@settings(max_examples=50)
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
    assert str(Recipe(smooth=0.8, side=2, reach=1.4)) == "smooth 0.8 + side 2 + reach 1.4"


def test_a_quiet_channel_of_its_own_is_magnified_all_the_way() -> None:
    """A depthwise Conv: every channel gets the scale that it needs, the quiet one too."""
    amax = np.float32([8, 8, 8, 0.25])
    ones = np.ones(4, np.float32)
    found = design(Channels(-amax, 0 * amax, amax), ones, Recipe(smooth=1.0))
    np.testing.assert_allclose(amax * found.multiplier, found.amax, rtol=1e-6)
