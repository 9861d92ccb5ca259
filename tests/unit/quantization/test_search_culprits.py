from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib8.quantization.sensitivity import culprits


class Damage:
    """Damages that add up, and a count of how often anybody asked."""

    def __init__(self, **costs: float) -> None:
        self.costs, self.asked = costs, 0

    def __call__(self, names: Sequence[str]) -> float:
        self.asked += 1
        return sum(self.costs[name] for name in names)


def costs(count: int, **planted: float) -> dict[str, float]:
    return {f"op{number}": 0.0 for number in range(count)} | planted


@pytest.mark.parametrize("count", [1, 2, 64])
def test_one_measurement_where_nothing_is_wrong(count: int) -> None:
    damage = Damage(**dict.fromkeys(costs(count), 0.01 / count))
    assert culprits(list(damage.costs), damage, 0.0101) == {}
    assert damage.asked == 1


def test_nothing_to_measure() -> None:
    assert culprits([], Damage(), 0.0) == {}


@pytest.mark.parametrize("planted", [{"op0": 0.5}, {"op63": 0.5}, {"op5": 0.5, "op40": 0.25}, {"op8": 0.5, "op9": 0.3}])
def test_exactly_the_planted_ones_in_few_measurements(planted: dict[str, float]) -> None:
    damage = Damage(**costs(64, **planted))
    assert culprits(list(damage.costs), damage, 0.1) == planted
    assert damage.asked <= 1 + 2 * 6 * len(planted)


def test_a_crowd_of_small_damages_has_no_culprit() -> None:
    damage = Damage(**dict.fromkeys(costs(16), 0.09))
    assert culprits(list(damage.costs), damage, 0.1) == {}


def test_not_a_number_is_a_culprit() -> None:
    damage = Damage(**costs(8, op3=float("nan")))
    assert list(culprits(list(damage.costs), damage, 0.1)) == ["op3"]


@given(st.lists(st.integers(0, 100), max_size=24), st.integers(0, 120))
def test_damages_that_add_up_as_by_brute_force(damages: list[int], limit: int) -> None:
    damage = Damage(**{f"op{number}": cost for number, cost in enumerate(damages)})
    found = culprits(list(damage.costs), damage, limit)
    assert found == {name: cost for name, cost in damage.costs.items() if cost > limit}
    assert damage.asked <= max(1, 2 * len(damages) - 1)
