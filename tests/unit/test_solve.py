import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.calibration.statistics import TensorStatistics
from calib8.graph.site import Site, sites
from calib8.numerics import dequantize, quantize, scale_of
from calib8.passes.prepare import prepare
from calib8.planning import solve as module
from calib8.planning.design import Recipe
from calib8.planning.solve import FEWEST_ROWS, RECIPES, Solution, _error, hold_out, possible, solve
from calib8.testing import GraphBuilder

PLAIN = RECIPES[:1]
#: Smoothing all the way is for grouped Convs.
DENSE = tuple(recipe for recipe in RECIPES if recipe.smooth < 1)


def seen(rows: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics()
    statistics.add(rows.astype(np.float32))
    statistics.sample().add(rows.astype(np.float32))
    return statistics


def gaussian(rows: int = 512, channels: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, channels)).astype(np.float32)


def weight(channels: int = 64, columns: int = 16) -> np.ndarray:
    return (np.random.default_rng(9).normal(size=(channels, columns)) / np.sqrt(channels)).astype(np.float32)


def site(weight: np.ndarray) -> Site:
    """A MatMul called ``op`` with this weight."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", len(weight))
    (found,) = sites(prepare(g.model(y=g.op("MatMul", x, g.constant("w", weight), name="op"))))
    return found


def computed(solution: Solution, x: np.ndarray) -> np.ndarray:
    """What the INT8 site computes of rows."""
    conditioning, own = solution.quantised.conditioning, solution.quantised.weights["op"]
    scale = scale_of(conditioning.amax)
    return dequantize(quantize(conditioning(x), scale), scale) @ dequantize(own.codes, own.scale) + own.bias


def db(error: float) -> float:
    return -10 * np.log10(error)


def fresh_db(solution: Solution, x: np.ndarray, w: np.ndarray) -> float:
    return db(_error(x @ w, computed(solution, x)))


def test_well_behaved_data_stays_plain() -> None:
    def uniform(*shape: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)

    x, w = uniform(512, 64, seed=0), uniform(64, 16, seed=1)
    solution = solve(seen(x), site(w))
    assert solution.recipe == Recipe()
    conditioning = solution.quantised.conditioning
    assert not conditioning.shift.any()
    assert (conditioning.multiplier == 1).all()
    assert conditioning.extra == 0
    assert conditioning.amax == np.abs(x).max()
    # uniform numbers on steps of 1 / 127 keep 20 log10(2 x 127) = 48.1 dB; so do the weights, hence 45.1 dB together,
    # less 10 log10(16 / 14) = 0.6 dB since the mean is one of ratios: rows of 16 outputs differ in power
    assert fresh_db(solution, uniform(512, 64, seed=2), w) == pytest.approx(44.5, abs=0.3)


@pytest.mark.parametrize(
    ("spoil", "fewest"),
    [
        (lambda x: x * np.where(np.arange(x.shape[1]) == 3, 50, 1), "smooth"),  # a channel that is large throughout
        (lambda x: x + np.where(np.arange(x.shape[1]) % 2, 20, 0), "shift"),  # channels far from zero
    ],
    ids=["outlier", "off centre"],
)
def test_outliers_are_treated(spoil, fewest: str) -> None:
    x, unseen, w = spoil(gaussian()), spoil(gaussian(seed=1)), weight()
    plain, solved = solve(seen(x), site(w), PLAIN), solve(seen(x), site(w))
    assert fewest in str(solved.recipe)
    assert fresh_db(solved, unseen, w) > fresh_db(plain, unseen, w) + 10
    # the error of the trial promises no more than GPTQ and bias correction then keep
    assert 20 < db(solved.error) < fresh_db(solved, unseen, w) + 1


def test_rare_outliers_are_split() -> None:
    """As behind a GELU: a few channels are huge on a few rows, where smoothing has nothing to gain by the weights."""
    random = np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        x = np.maximum(random.normal(size=(count, 800)), -0.17)
        x[:, :3] += (random.uniform(size=(count, 3)) < 0.05) * random.uniform(20, 40, size=(count, 3))
        return x.astype(np.float32)

    x, unseen, w = rows(1024), rows(512), weight(800)
    plain, solved = solve(seen(x), site(w), PLAIN), solve(seen(x), site(w))
    assert "split" in str(solved.recipe)
    assert solved.quantised.conditioning.extra == 32
    assert solved.quantised.weights["op"].codes.shape == (832, 16)
    assert fresh_db(solved, unseen, w) > fresh_db(plain, unseen, w) + 8


def test_a_costlier_recipe_must_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = gaussian() * np.where(np.arange(64) == 3, 50, 1), weight()
    monkeypatch.setattr(module, "WORTH", 0.0)
    assert solve(seen(x), site(w)).recipe == RECIPES[0]
    recipes = (Recipe(smooth=0.5), Recipe())
    monkeypatch.setattr(module, "WORTH", 0.9)
    assert solve(seen(x), site(w), recipes).recipe == recipes[0]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(DENSE))
def test_the_mean_error_is_removed(seed: int, recipe: Recipe) -> None:
    random = np.random.default_rng(seed)
    x = (random.normal(size=(200, 32)) * np.exp(random.normal(size=32)) + random.normal(size=32) * 3).astype(np.float32)
    w = weight(32)
    statistics = seen(x)
    rows = statistics.sample().rows()  # in float16's precision
    error = computed(solve(statistics, site(w), (recipe,)), rows) - rows @ w
    assert np.abs(error.mean(axis=0)).max() < 1e-5 * np.abs(rows @ w).max()
    assert np.abs(error).max() < 0.2 * np.abs(rows @ w).max()


def test_the_shift_is_folded_through_the_codes() -> None:
    """Padding, zeros in, gives what the float model gives: the bias is that of exact zeros, not of rounded ones."""
    x, w = gaussian() + 3, weight()
    solution = solve(seen(x), site(w), (Recipe(shift=True),))
    conditioning, own = solution.quantised.conditioning, solution.quantised.weights["op"]
    assert conditioning.shift.any()
    w_hat = dequantize(own.codes, own.scale)
    # shift @ w_hat, and what the mean row loses by the weights' rounding: mean @ (w - w_hat)
    expected = conditioning.shift @ w_hat + x.mean(axis=0) @ (w - w_hat)
    np.testing.assert_allclose(own.bias, expected, atol=2e-3)


def test_held_out_rows_are_not_in_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = gaussian(), weight()
    x[hold_out(len(x))[0][0], 7] = 1000
    limits = []

    def spy(minimum: np.ndarray, maximum: np.ndarray, *args: object):
        limits.append(float(maximum.max()))
        return module_design(minimum, maximum, *args)

    module_design = module.design
    monkeypatch.setattr(module, "design", spy)
    solution = solve(seen(x), site(w))
    assert len(limits) == len(DENSE) + 1
    assert max(limits[:-1]) < 6
    assert limits[-1] == 1000  # designed for all data in the end
    assert solution.quantised.conditioning.multiplier.min() > 0


def test_what_clips_held_out_rows_loses_against_what_does_not() -> None:
    x, w = gaussian(), weight()
    # In rows that are all held out, channel 7 is ten times what the others show; clipping ruins those rows.
    rows, _ = hold_out(len(x))
    x[rows[::2], 7], x[rows[1::2], 7] = 30, -30
    assert _trial_error(x, w) > 100 * _trial_error(gaussian(), w)


def _trial_error(x: np.ndarray, w: np.ndarray) -> float:
    """The error by which ``solve`` chooses: of the last outputs it computes before GPTQ."""
    errors = []
    error = module._error

    def spy(expected: np.ndarray, got: np.ndarray) -> float:
        errors.append(error(expected, got))
        return errors[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_error", spy)
        solve(seen(x), site(w), PLAIN)
    return errors[0]


@pytest.mark.parametrize("rows", [FEWEST_ROWS, 100])
def test_fewer_rows_than_channels(rows: int) -> None:
    x, unseen, w = gaussian(rows, 256), gaussian(400, 256, seed=1), weight(256)
    solution = solve(seen(x), site(w))
    assert solution.quantised.weights["op"].codes.shape[1] == 16
    assert fresh_db(solution, unseen, w) > 30


@pytest.mark.parametrize("value", [0, 5, -1e-3])
def test_a_constant_channel(value: float) -> None:
    x, unseen, w = gaussian(), gaussian(seed=1), weight()
    x[:, 3] = unseen[:, 3] = value
    for recipe in DENSE:
        solution = solve(seen(x), site(w), (recipe,))
        assert np.isfinite(solution.quantised.weights["op"].bias).all()
        assert fresh_db(solution, unseen, w) > 33


def test_rows_of_nothing_but_zero_do_not_hide_the_rest() -> None:
    """Behind a ReLU whole rows may be dead; the bias gives them a tiny error, infinitely more than nothing."""
    x, w = gaussian(), weight()
    x[::2] = 0
    assert db(solve(seen(x), site(w)).error) > 30
    assert solve(seen(0 * x), site(w)).error == 0


def test_the_trial_foresees_what_is_kept() -> None:
    """Rows far from zero: what the weights' rounding makes of the mean row goes into the bias."""
    centre = np.where(np.arange(64) % 2, 50, -50)
    x, unseen, w = gaussian() + centre, gaussian(seed=1) + centre, weight()
    solution = solve(seen(x), site(w))
    assert db(solution.error) == pytest.approx(fresh_db(solution, unseen, w), abs=3)


def test_error_by_hand() -> None:
    expected = np.float32([[3, 4], [0, 0], [300, 400]])
    got = np.float32([[3, 3], [0, 0.5], [330, 440]])
    # The medians of the columns are 3 and 4. Squared distances to them are 0, 25 and 297^2 + 396^2 = 245,025, the
    # median of those not zero 122,525: a row of less than a hundredth of that counts as one of 1,225.25.
    assert _error(expected, got) == pytest.approx((1 / 1225.25 + 0.25 / 1225.25 + 2500 / 245025) / 3)
    assert _error(np.float32([[1], [3]]), np.float32([[1], [2]])) == pytest.approx(0.5)  # both rows are 1 from 2
    assert _error(expected, expected) == 0


@pytest.mark.parametrize("unit", [2.0**-30, 2.0**20])
def test_units_do_not_matter(unit: float) -> None:
    """Neither tiny activations nor some beyond FP16 change the codes."""
    x, w = gaussian() * np.where(np.arange(64) == 3, 50, 1), weight()
    one, other = solve(seen(x), site(w)), solve(seen(x * unit), site(w))
    assert one.recipe == other.recipe
    assert other.error == pytest.approx(one.error, rel=1e-3)
    assert np.mean(one.quantised.weights["op"].codes == other.quantised.weights["op"].codes) > 0.99


def test_the_result_repeats() -> None:
    x, w = gaussian() * np.where(np.arange(64) == 3, 50, 1), weight()
    first, second = solve(seen(x), site(w)), solve(seen(x), site(w))
    assert (first.recipe, first.error) == (second.recipe, second.error)
    ours, theirs = first.quantised.weights["op"], second.quantised.weights["op"]
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.bias, theirs.bias)


def conv_site(groups: int = 1, **attributes: object) -> Site:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4, 8, 8)
    y = g.op("Conv", x, g.weight("w", 4, 4 // groups, 3, 3), name="op", group=groups, **attributes)
    (found,) = sites(prepare(g.model(y=y)))
    return found


SMOOTH, SHIFT, SPLIT, SIDE = Recipe(smooth=0.5), Recipe(shift=True), Recipe(split=0.04), Recipe(side=2)
WHOLLY = Recipe(smooth=1.0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (site(weight(4)), [SMOOTH, SHIFT, SPLIT, SIDE]),
        (site(weight(3)), [SMOOTH, SHIFT, SPLIT]),  # 2 of 3 channels would go around INT8
        (conv_site(), [SMOOTH, SHIFT, SPLIT]),
        (conv_site(auto_pad="VALID"), [SMOOTH, SHIFT, SPLIT]),
        (conv_site(pads=[0, 0, 0, 1]), [SMOOTH, SPLIT]),
        (conv_site(2), [SMOOTH, WHOLLY, SHIFT]),
        (conv_site(4, pads=[1, 1, 1, 1]), [SMOOTH, WHOLLY]),
    ],
    ids=["matmul", "narrow matmul", "conv", "valid", "padded", "grouped", "depthwise, padded"],
)
def test_what_a_site_can_take(found: Site, expected: list[Recipe]) -> None:
    assert [recipe for recipe in (SMOOTH, WHOLLY, SHIFT, SPLIT, SIDE) if possible(recipe, found)] == expected
    assert possible(Recipe(), found)
    together = Recipe(smooth=0.5, shift=True, split=0.04)
    assert possible(together, found) == (SHIFT in expected and SPLIT in expected)
