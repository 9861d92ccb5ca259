import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.site import Site, sites
from calib8.passes.prepare import prepare
from calib8.quantization.design import Recipe
from calib8.quantization.trials import (
    HOLD_OUT,
    TRIED,
    Trials,
    amax_of_channels,
    channels_of,
    error_of,
    hold_out,
    medians,
    possible,
)


def gaussian(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(512, 64)).astype(np.float32)


def weight(channels: int = 64) -> np.ndarray:
    return (np.random.default_rng(9).normal(size=(channels, 16)) / np.sqrt(channels)).astype(np.float32)


def site(weight: np.ndarray) -> Site:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", len(weight))
    (found,) = sites(prepare(g.model(y=g.op("MatMul", x, g.constant("w", weight), name="op"))))
    return found


def trial_error(x: np.ndarray, recipe: Recipe, w: np.ndarray | None = None) -> float:
    return Trials(x, site(weight() if w is None else w)).run(recipe).error


def test_error_by_hand() -> None:
    expected = np.float32([[3, 4], [0, 0], [300, 400]])
    error = np.float32([[3, 4], [-6, -8], [3, 4]])  # 0 on average
    # The medians of the columns are 3 and 4. Squared distances to them are 0, 25 and 297^2 + 396^2 = 245,025, the
    # median of those not zero 122,525: a row of less than a hundredth of that counts as one of 1,225.25. Lost are
    # 25, 100 and 25.
    ratios = np.array([25 / 1225.25, 100 / 1225.25, 25 / 245025])
    assert error_of(expected, expected - error) == pytest.approx(np.sqrt(np.square(ratios).mean()))
    # both rows are 1 from the median 2, and lose 0.5 each: what they lose in common, 0.5, is the bias's
    assert error_of(np.float32([[1], [3]]), np.float32([[1], [2]])) == pytest.approx(0.25)
    assert error_of(expected, expected) == 0


def test_error_counts_rows_that_are_hit_hard() -> None:
    # 99 rows as they should be and one that is lost: 1 % on average, sqrt(1 %) as a root mean square
    expected = np.where(np.arange(100) % 2, 1.0, -1.0)[:, None] * np.ones((1, 4))
    lost = np.zeros((100, 4))
    lost[6] = [1, -1, 1, -1]
    # The mean error, 0.01 in each column, is removed: 0.99^2 x 4 of 4 is left of the row, 0.01^2 of each other
    wanted = np.sqrt((0.99**4 + 99 * 0.01**4) / 100)
    assert error_of(expected, expected + lost) == pytest.approx(wanted)
    assert wanted == pytest.approx(0.098, abs=1e-3)


def test_error_ignores_constant_parts() -> None:
    random = np.random.default_rng(0)
    expected, noise = random.normal(size=(200, 8)), 0.1 * random.normal(size=(200, 8))
    constant, own = 1000 * random.normal(size=8), 7 * random.normal(size=8)
    error = error_of(expected, expected + noise)
    assert 0.005 < error < 0.05
    # of the output, which carry nothing, and of the error, which the bias repairs
    assert error_of(expected + constant, expected + constant + noise) == pytest.approx(error)
    assert error_of(expected, expected + noise + own) == pytest.approx(error)
    assert error_of(expected, expected + own) == pytest.approx(0, abs=1e-20)


def test_error_has_no_unit() -> None:
    random = np.random.default_rng(0)
    expected, got = random.normal(size=(2, 50, 8))
    assert error_of(2.0**40 * expected, 2.0**40 * got) == pytest.approx(error_of(expected, got))
    assert error_of(0 * expected, 0 * got) == 0


def test_the_error_of_a_trial_ignores_a_constant_channel() -> None:
    """Whatever it adds to every output, on whatever coarse grid it makes its weight take."""
    x = gaussian()
    x[:, 3] = 2  # within the range of the others: the grid stays
    absent = x.copy()
    absent[:, 3] = 0
    assert trial_error(x, Recipe()) == pytest.approx(trial_error(absent, Recipe()), rel=1e-3)


def test_what_clips_held_out_rows_loses_against_what_does_not() -> None:
    x = gaussian()
    # In rows that are all held out, channel 7 is ten times what the others show; clipping ruins those rows.
    rows, _ = hold_out(len(x))
    x[rows[::2], 7], x[rows[1::2], 7] = 30, -30
    assert trial_error(x, Recipe()) > 100 * trial_error(gaussian(), Recipe())


def test_channels_that_go_around_int8_lose_nothing() -> None:
    x = gaussian() * np.where(np.arange(64) == 3, 50, 1).astype(np.float32)
    assert trial_error(x, Recipe(side=1)) < trial_error(x, Recipe()) / 100


def test_held_out_rows() -> None:
    held_out, fitted = hold_out(100)
    assert (len(held_out), len(fitted)) == (100 // HOLD_OUT, 75)
    assert sorted([*held_out, *fitted]) == list(range(100))
    assert hold_out(100)[0].tolist() == held_out.tolist()
    assert len(hold_out(8 * TRIED)[0]) == TRIED


def test_channels_by_hand() -> None:
    # two channels of two taps: 1 2 5 6 and 3 4 7 9
    channels = channels_of(np.float32([[1, 2, 3, 4], [5, 6, 7, 9]]), 2)
    assert channels.minimum.tolist() == [1, 3]
    assert channels.median.tolist() == [3.5, 5.5]
    assert channels.maximum.tolist() == [6, 9]
    assert amax_of_channels(np.float32([[1, -2], [0, 1], [3, 0], [0, -4]]), 2).tolist() == [2, 4]


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


@pytest.mark.parametrize("count", [1, 2, 3, 64, 4095])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_medians_are_numpys_to_the_bit(count: int, kind: type[np.floating]) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 5)).astype(kind)
    rows[:, 1] = np.round(rows[:, 1])  # values that repeat
    before = rows.copy()
    found = medians(rows.T)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, np.median(rows, axis=0))
    np.testing.assert_array_equal(rows, before)
