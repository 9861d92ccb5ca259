import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seen_rows import add_rows

from calib8.calibration.observers import OBSERVERS, observer_for
from calib8.calibration.observers.base import Observer
from calib8.calibration.observers.entropy import Entropy
from calib8.calibration.observers.min_max import MinMax
from calib8.calibration.observers.mse import Mse
from calib8.calibration.observers.percentile import Percentile
from calib8.calibration.statistics import TensorStatistics
from calib8.errors import ConfigError

RANDOM = np.random.default_rng(0)


def seen(values: object) -> TensorStatistics:
    statistics = TensorStatistics()
    add_rows(statistics, np.asarray(values, np.float32).reshape(1, -1))
    return statistics


def with_outlier(outlier: float) -> np.ndarray:
    return np.append(RANDOM.normal(size=100_000), outlier)


@pytest.mark.parametrize("name", OBSERVERS)
def test_all_zero_gives_zero(name: str) -> None:
    assert observer_for(name).amax(seen(np.zeros(10))) == 0


@pytest.mark.parametrize("name", OBSERVERS)
@settings(max_examples=30)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.integers(0, 50))
def test_never_beyond_what_was_seen_and_never_zero(name: str, values: list[float], zeros: int) -> None:
    statistics = seen([*values, *[0.0] * zeros])
    amax = observer_for(name).amax(statistics)
    assert 0 <= amax <= statistics.amax
    assert (amax > 0) == (statistics.amax > 0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_one_repeated_magnitude_is_kept(name: str) -> None:
    assert observer_for(name).amax(seen([3.0, -3.0, 3.0])) == pytest.approx(3.0, rel=1 / 4096)


def test_minmax_takes_the_sign_into_account() -> None:
    assert MinMax().amax(seen([1.0, -7.5, 3.0])) == 7.5


@pytest.mark.parametrize(
    ("percentile", "expected"),
    # 1..1000, bins of 1/8: 99% do not exceed 990, whose bin ends at 990.125; 100% ends at the largest value
    [(99.0, 990.125), (50.1, 501.125), (100.0, 1000.0)],
)
def test_percentile_by_hand(percentile: float, expected: float) -> None:
    assert Percentile(percentile).amax(seen(np.arange(1, 1001))) == expected


@pytest.mark.parametrize(
    ("ones", "expected"),
    # n values of 1 and one of 100; clip c means step c / 127.
    # c = 100: 1 is stored as 100/127 = 0.787, so the error is n x 0.2126^2 = 0.0452 n; the outlier costs nothing.
    # c < 85: 1 is stored as 2c/127, so the error is n (2c/127 - 1)^2 + (100 - c)^2. Its derivative is 0 where
    # n (2c/127 - 1) 2/127 = 100 - c, for n = 100,000 at c = 64.9, and the error there is 1,281.
    # 10,000 ones: 452 at c = 100 beats any smaller c (over 225 for the outlier at c < 85, and more for the ones);
    # 100,000 ones: 4,520 at c = 100 loses to 1,281.
    [(10_000, 100.0), (100_000, 64.9)],
)
def test_mse_by_hand(ones: int, expected: float) -> None:
    assert Mse().amax(seen([*[1.0] * ones, 100.0])) == pytest.approx(expected, abs=0.8)  # candidates: 100 k / 128


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_t"])
def test_mse_finds_nearly_the_least_error(draw: str) -> None:
    options = {"df": 3} if draw == "standard_t" else {}
    x = getattr(np.random.default_rng(1), draw)(size=50_000, **options).astype(np.float32)

    def error(clip: float) -> float:
        step = clip / 127
        return float(np.square(np.clip(np.rint(x / step), -127, 127) * step - x, dtype=np.float64).sum())

    best = min(error(clip) for clip in np.linspace(0.01, 1, 300) * np.abs(x).max())
    assert error(Mse().amax(seen(x))) <= 1.02 * best


def test_entropy_cuts_off_a_far_outlier() -> None:
    statistics = seen(with_outlier(60.0))
    amax = Entropy().amax(statistics)
    assert amax < 60 / 10
    assert amax > 3  # what 99.7% of a normal distribution do not exceed
    assert MinMax().amax(statistics) == 60


def test_entropy_by_hand() -> None:
    # 256 coarse bins, 128 levels. Bins 0 to 127 hold 100 each, bin 255 holds 1. With 128 bins each level is one bin and
    # only the tail differs: P = (100/12801, ..., 101/12801), Q = 1/128. That KL is about 3e-7. With 256 bins two bins
    # share a level; equal counts spread equally, and the outlier keeps its own level: KL = 0. So nothing is clipped ...
    even = np.append(np.repeat((np.arange(128) + 0.5) / 256, 100), 1.0)
    assert Entropy(bins=256).amax(seen(even)) == 1.0
    # ... unless the neighbours differ: counts 10, 190, 10, 190, ... spread over one level become 100, 100. That costs
    # KL = 0.05 ln 0.1 + 0.95 ln 1.9 = 0.49, far more than the tail does at 128 bins: half the range is cut.
    uneven = np.append(np.repeat((np.arange(128) + 0.5) / 256, [10, 190] * 64), 1.0)
    assert Entropy(bins=256).amax(seen(uneven)) == pytest.approx(0.5, rel=1 / 64)


def test_entropy_does_not_depend_on_the_unit() -> None:
    # fine bins are powers of two, coarse bins are not: x and 1.3 x must be treated alike
    x = np.random.default_rng(2).laplace(size=300_000)
    amaxes = [Entropy().amax(seen(x * unit)) / unit for unit in (1, 1.3, 1.7, 1.9)]
    assert max(amaxes) / min(amaxes) < 1.05


@pytest.mark.parametrize("kept", [0.5, 0.01])
def test_entropy_ignores_the_exact_zeros_of_a_relu(kept: float) -> None:
    x = np.abs(np.random.default_rng(3).normal(size=200_000))
    sparse = np.where(np.random.default_rng(4).random(x.shape) < kept, x, 0)
    assert Entropy().amax(seen(sparse)) > 2.5


def test_observers_differ_on_an_outlier() -> None:
    statistics = seen(with_outlier(30.0))
    amaxes = {name: observer_for(name).amax(statistics) for name in OBSERVERS}
    assert amaxes["minmax"] == 30
    assert len({round(amax, 3) for amax in amaxes.values()}) == len(OBSERVERS)


@pytest.mark.parametrize(
    ("name", "observer"),
    [("minmax", MinMax()), ("percentile", Percentile(99.5)), ("mse", Mse()), ("entropy", Entropy())],
)
def test_observer_by_name(name: str, observer: Observer) -> None:
    assert observer_for(name, 99.5) == observer


def test_unknown_observer_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown observer 'magic': expected one of minmax, percentile, mse, entropy"):
        observer_for("magic")


@pytest.mark.parametrize("percentile", [50, 100.1, -1, np.nan])
def test_impossible_percentile(percentile: float) -> None:
    with pytest.raises(ConfigError, match=r"percentile .*: expected more than 50 and at most 100, e\.g\. 99\.99"):
        observer_for("percentile", percentile)
