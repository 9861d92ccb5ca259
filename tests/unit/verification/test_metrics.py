import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.verification import metrics
from calib8.verification.metrics import neighbour_agreement, spearman


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [30, 20, 10], -1),
        # no ties: 1 - 6 sum d^2 / (n (n^2 - 1)); ranks 1 2 3 4 5 and 2 1 4 3 5: d^2 = 4, 1 - 24 / 120 = 0.8
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),
        # ties: ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4; centred (-1.5, 0, 0, 1.5) . (-1.5, 0.5, -0.5, 1.5) = 4.5;
        # norms sqrt(4.5) and sqrt(5): 4.5 / sqrt(22.5) = 0.948683
        ([1, 2, 2, 3], [1, 3, 2, 4], 0.948683),
        # all but one tied: ranks 2 2 2 4 - mean 2.5 = (-.5, -.5, -.5, 1.5); other (-1.5, -.5, .5, 1.5):
        # 0.75 + 0.25 - 0.25 + 2.25 = 3; norms sqrt(3) sqrt(5): 3 / sqrt(15) = 0.774597
        ([0, 0, 0, 7], [1, 2, 3, 4], 0.774597),
    ],
)
def test_spearman_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert spearman(np.array(a), np.array(b)) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=30, unique=True))
def test_spearman_sees_only_the_order(values: list[int]) -> None:
    a = np.array(values, np.float64)
    assert spearman(a, np.exp(a / 10)) == pytest.approx(1)
    assert spearman(a, -(a**3)) == pytest.approx(-1)


def test_spearman_of_a_constant_is_nan() -> None:
    assert np.isnan(spearman(np.ones(3), np.arange(3)))


def unit(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_neighbour_agreement_by_hand() -> None:
    reference = unit(0, 10, 30, 90)
    # nearest other row: 0 -> 10, 10 -> 0, 30 -> 10, 90 -> 30
    assert neighbour_agreement(reference, reference) == 1
    # row 1 at 17 degrees: 30 (13 away) now beats 0 (17 away); its own old place, 7 away, does not count: 3 of 4
    assert neighbour_agreement(reference, unit(0, 17, 30, 90)) == 0.75
    # row 2 at 60 degrees is nearest to 90, not to 10. Row 1 still finds row 2 at its old 30 degrees, as the index
    # is the reference's; among the candidate's own rows it would have kept 0. So 2 of 4
    assert neighbour_agreement(reference, unit(0, 17, 60, 90)) == 0.5


def test_neighbour_agreement_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(23, 5))
    candidate = reference + 0.3 * random.normal(size=reference.shape)
    whole = neighbour_agreement(reference, candidate)
    assert 0 < whole < 1
    monkeypatch.setattr(metrics, "BLOCK", 7)
    assert neighbour_agreement(reference, candidate) == whole
