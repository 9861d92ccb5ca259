"""The guard: which ops it finds, and what it leaves of the others."""

from collections.abc import Sequence

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_models import OPS, case, probe_of

from calib8.progress import Quiet
from calib8.provenance import PLAN
from calib8.quantization.budget import quantise_within
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.guard import culprits, quantise_guarded
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import QuantPlan
from calib8.runtime.ort import OrtRuntime
from calib8.verification.named import Least

PLAIN, AUTO = Int8(treatment="plain", remainder="fp32"), Int8(remainder="fp32")


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


def test_what_is_left_of_the_damage_is_not_measured_again() -> None:
    """Of eight: all of them, four that are clean, two more, one more, and the last, whose own damage is told."""
    damage = Damage(**costs(8, op7=1.0))
    assert culprits(list(damage.costs), damage, 0.1) == {"op7": 1.0}
    assert damage.asked == 5


def test_damage_that_ops_do_only_together_has_no_culprit() -> None:
    def damage(names: Sequence[str]) -> float:
        return 1.0 if len(names) > 4 else 0.0

    assert culprits(list(costs(8)), damage, 0.1) == {}


def test_not_a_number_is_a_culprit() -> None:
    damage = Damage(**costs(8, op3=float("nan")))
    assert list(culprits(list(damage.costs), damage, 0.1)) == ["op3"]


@given(st.lists(st.integers(0, 100), max_size=24), st.integers(0, 120))
def test_damages_that_add_up_as_by_brute_force(damages: list[int], limit: int) -> None:
    damage = Damage(**{f"op{number}": cost for number, cost in enumerate(damages)})
    found = culprits(list(damage.costs), damage, limit)
    assert found == {name: cost for name, cost in damage.costs.items() if cost > limit}
    assert damage.asked <= max(1, 2 * len(damages) - 1)


def test_the_guard_leaves_the_ruined_op_in_float_and_says_why(notes) -> None:
    own = case(PLAIN)
    quantised, plan = quantise_guarded(own, probe_of(own.model), notes)
    assert plan.nodes("float") == ["ruined"]
    ruined = next(op for op in plan.ops if op.node == "ruined")
    assert ruined.expected_cosine is not None
    cost = 1 - ruined.expected_cosine
    assert cost > 0.1
    assert ruined.reason == f"alone it takes {cost:.4f} from the cosine of the model's output, more than 0.002"
    assert [message for message in notes.messages if "alone cost more than 0.002" in message]
    with OrtRuntime(quantised) as runtime:
        assert probe_of(own.model).scores(runtime).mean() > 0.999
    assert QuantPlan.model_validate_json(quantised.metadata_props[PLAN]) == plan


@pytest.mark.parametrize("own", [case(AUTO), case(PLAIN, 1.0), case(PLAIN.model_copy(update={"max_damage": 0.9}))])
def test_the_guard_does_nothing_when_all_is_well(own: Case, notes) -> None:
    _, plan = quantise_guarded(own, probe_of(own.model), notes)
    assert plan == own.plan(own.solutions(Quiet()))
    assert plan.nodes("int8") == OPS
    assert notes.messages == []


def test_the_guard_clears_a_crowd_of_which_none_is_bad_alone() -> None:
    own = case(PLAIN.model_copy(update={"max_damage": 6e-5}), 1.0)  # together they cost 1e-4 or more
    _, plan = quantise_guarded(own, probe_of(own.model), Quiet())
    assert plan.nodes("float") == []


class ByHand:
    """A ``Stopwatch`` that was set: ops that are slow, and whether the model without them is faster."""

    def __init__(self, *slow: str, faster: bool) -> None:
        self.reasons, self.is_faster = dict.fromkeys(slow, "INT8 takes longer here"), faster
        self.asked: list[QuantPlan] = []

    def slow(self, quantised: ir.Model, plan: QuantPlan) -> dict[str, str]:
        self.asked.append(plan)
        return self.reasons

    def faster(self, other: ir.Model) -> bool:
        self.asked.append(QuantPlan.model_validate_json(other.metadata_props[PLAN]))
        return self.is_faster


def test_what_is_slow_stays_in_float_beside_what_the_guard_found() -> None:
    own, clock = case(PLAIN), ByHand("second", faster=True)
    quantised, plan = quantise_guarded(own, probe_of(own.model), Quiet(), clock)
    before = quantise_guarded(own, probe_of(own.model), Quiet())[1]
    assert clock.asked == [before, plan]
    assert plan.nodes("int8") == ["first", "last"]
    reasons = {op.node: op.reason for op in plan.ops}
    assert reasons["second"] == "INT8 takes longer here"
    assert reasons["ruined"] == next(op.reason for op in before.ops if op.node == "ruined")
    assert QuantPlan.model_validate_json(quantised.metadata_props[PLAN]) == plan


@pytest.mark.parametrize(("slow", "asked"), [(("second",), 2), ((), 1)])
def test_the_plan_stays_where_nothing_is_slow_or_the_model_without_it_is_no_faster(
    slow: tuple[str, ...], asked: int
) -> None:
    own, clock = case(AUTO), ByHand(*slow, faster=False)
    quantised, plan = quantise_guarded(own, probe_of(own.model), Quiet(), clock)
    assert plan == quantise_guarded(own, probe_of(own.model), Quiet())[1]
    assert QuantPlan.model_validate_json(quantised.metadata_props[PLAN]) == plan
    assert len(clock.asked) == asked


@pytest.mark.parametrize("search", ["guard", "budget"])
def test_that_damage_goes_unseen_is_told(search: str, monkeypatch: pytest.MonkeyPatch, notes) -> None:
    chosen = case(PLAIN)
    probe = probe_of(chosen.model)
    for blind in (None, "hardly anything is seen"):
        monkeypatch.setattr(Probe, "blind", blind)
        if search == "guard":
            quantise_guarded(chosen, probe, notes)
        else:
            quantise_within(chosen, probe, Least(name="cosine", least=0.5), notes)
        assert ("hardly anything is seen" in notes.messages) is (blind is not None)
