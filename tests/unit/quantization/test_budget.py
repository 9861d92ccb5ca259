"""The guard and the search for a plan within a budget, on a model with one op that INT8 ruins or needs a recipe for."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from planted_models import OPS, attention, case, probe_of
from stops import Stopped

from calib8.errors import AccuracyMissed, ConfigError
from calib8.graph.io import serialized
from calib8.progress import Quiet
from calib8.provenance import PLAN
from calib8.quantization import design
from calib8.quantization.apply import repeats
from calib8.quantization.budget import ORDER, Reached, _Search, quantise_within
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.design import Recipe
from calib8.quantization.guard import quantise_guarded
from calib8.quantization.known import Known
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import OpPlan, QuantPlan
from calib8.quantization.switchboard import Switchboard
from calib8.quantization.trials import Trial
from calib8.runtime.base import Runtime
from calib8.runtime.ort import OrtRuntime
from calib8.verification.named import Least

PLAIN, AUTO = Int8(treatment="plain", remainder="fp32"), Int8(remainder="fp32")


def within(own: Case, target: float) -> tuple[ir.Model, QuantPlan]:
    return quantise_within(own, probe_of(own.model), Least(name="cosine", least=target), Quiet())


def of(plan: QuantPlan, name: str) -> OpPlan:
    return next(op for op in plan.ops if op.node == name)


def cosine(own: Case, quantised: ir.Model) -> float:
    with OrtRuntime(quantised) as runtime:
        return float(probe_of(own.model).scores(runtime).mean())


class Counted(Quiet):
    """Stops when the output was measured so often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: float = math.inf) -> None:
        self.measured, scores = 0, Probe.scores

        def counted(probe: Probe, runtime: Runtime, samples: int | None = None) -> np.ndarray:
            if isinstance(runtime, Switchboard):
                self.measured += 1
                if self.measured > last:
                    raise Stopped
            return scores(probe, runtime, samples)

        monkeypatch.setattr(Probe, "scores", counted)


@pytest.mark.parametrize(
    ("outlier", "target", "config"),
    [(30.0, 0.9999, AUTO), (30.0, 0.95, AUTO), (1000.0, 0.999, PLAIN), (1000.0, None, PLAIN)],
)
def test_a_stopped_search_measures_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outlier: float, target: float | None, config: Int8
) -> None:
    """Stopped at every measurement but the last, it finds the same plan, and each measurement is made once."""

    def search(own: Case) -> tuple[bytes, QuantPlan]:
        probe = probe_of(own.model)
        found = within(own, target) if target is not None else quantise_guarded(own, probe, Quiet())
        return serialized(found[0]), found[1]

    with monkeypatch.context() as patch:
        counted = Counted(patch)
        whole = search(case(config, outlier))
    kept = replace(case(config, outlier), unfinished=tmp_path)
    for _ in range(counted.measured - 1):
        with monkeypatch.context() as patch:
            Counted(patch, 1)
            with pytest.raises(Stopped):
                search(kept)
    with monkeypatch.context() as patch:
        patch.setattr("calib8.quantization.budget.Trials.run", lambda *_: pytest.fail("tried again"))
        last = Counted(patch)
        assert search(kept) == whole
    assert last.measured == 1
    assert (target == 0.9999) == any(tmp_path.rglob("trials.json"))


@pytest.mark.parametrize("damage", ["", "[", "[1]", '{"a'])
def test_damaged_measurements_are_made_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.json"
    assert Known(path).numbers(["x"], lambda: [0.1, 1 / 3]) == [0.1, 1 / 3]
    assert Known(path).numbers(["x"], lambda: pytest.fail("known")) == [0.1, 1 / 3]
    path.write_text(damage)
    assert Known(path).numbers(["x"], lambda: [0.2]) == [0.2]
    assert Known(path).numbers(["x"], lambda: pytest.fail("known")) == [0.2]


def test_a_budget_that_is_met_is_spent_on_cheaper_recipes() -> None:
    own = case(AUTO, 30.0)
    solutions = own.solutions(Quiet())
    quantised, plan = within(own, 0.999)
    assert plan.nodes("int8") == OPS
    assert plan.budget is not None
    assert plan.budget.least == 0.999
    assert plan.budget.samples == 24
    assert plan.budget.reached - plan.budget.standard_error >= 0.999
    assert cosine(own, quantised) == pytest.approx(plan.budget.reached, abs=1e-6)
    before = {name: str(solution.recipe) for name, solution in solutions.items()}
    after = {op.node: op.recipe for op in plan.ops}
    assert before["ruined"] == "shift + split 4%"
    assert str(after["ruined"]).startswith("smooth 0.5")
    assert QuantPlan.model_validate_json(quantised.metadata_props[PLAN]) == plan


def test_a_looser_budget_buys_cheaper_recipes() -> None:
    own = case(AUTO, 30.0)
    _, plan = within(own, 0.95)
    assert [str(op.recipe).split(" + ")[0].split()[0] for op in plan.ops] == ["plain", "reach", "plain", "reach"]
    assert plan.budget is not None
    assert 0.95 <= plan.budget.reached < 0.999


def test_expected_cosines_are_of_the_recipes_that_the_plan_has() -> None:
    own = case(AUTO, 30.0)
    quantised, plan = within(own, 0.95)
    for op in plan.ops:
        alone = Case(own.model, own.ranges, own.statistics, own.config.model_copy(update={"include": (op.node,)}))
        solved = alone.solutions(Quiet())
        if str(solved[op.node].recipe) == op.recipe:
            expected = cosine(own, alone.apply(solved)[0])
            assert op.expected_cosine == pytest.approx(expected, abs=1e-6)
    assert of(plan, "ruined").expected_cosine == pytest.approx(0.992, abs=1e-3)  # by its plain recipe
    assert repeats(quantised, own.ranges.origin, own.config)


def test_exactly_the_ruined_op_goes_to_float() -> None:
    own = case(PLAIN)
    quantised, plan = within(own, 0.999)
    assert plan.nodes("float") == ["ruined"]
    ruined = of(plan, "ruined")
    assert ruined.expected_cosine is not None
    assert ruined.reason == (
        f"alone it takes {1 - ruined.expected_cosine:.5f} from the cosine; with it quantised too, the plan would not "
        "keep 0.999"
    )
    assert all((op.expected_cosine or 0) > 0.999 for op in plan.ops if op.node != "ruined")
    assert plan.budget is not None
    assert cosine(own, quantised) == pytest.approx(plan.budget.reached, abs=1e-6)
    assert repeats(quantised, own.ranges.origin, own.config)  # what it was asked for, not what it worked with


@pytest.mark.parametrize(("own", "all_int8"), [(case(PLAIN), r"0\.7\d{4}"), (case(AUTO, 30.0), r"0\.999\d\d")])
def test_a_budget_that_cannot_be_met(own: Case, all_int8: str) -> None:
    with pytest.raises(AccuracyMissed) as caught:
        within(own, 0.99999999)
    caught.match(
        rf"no plan with an op in INT8 keeps a mean cosine of 0\.99999999 by one standard error on 24 held-out samples: "
        rf"all 4 ops in INT8 reach {all_int8} \(give or take 0\.\d{{5}}\), all in float 1\.00000\. Lower the budget"
    )


def test_include_and_exclude_bound_the_search() -> None:
    own = case(PLAIN.model_copy(update={"exclude": ("ruined", "first")}))
    _, plan = within(own, 0.999)
    assert plan.nodes("int8") == ["second", "last"]
    assert (of(plan, "ruined").reason, of(plan, "ruined").expected_cosine) == ("left out by name", None)
    with pytest.raises(ConfigError, match="there is no op to quantise, whatever the budget.*left out by name"):
        within(case(PLAIN.model_copy(update={"include": ("ruined",), "exclude": ("*",)})), 0.9)


def test_too_few_rows_to_solve_any_site() -> None:
    own = case(AUTO, count=40)
    assert own.solutions(Quiet()) == {}
    _, plan = within(own, 0.999)
    assert plan.nodes("float") == ["ruined"]


def test_a_search_that_tries_too_much_still_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prediction says that cheap recipes are free, and the output disagrees."""
    monkeypatch.setattr("calib8.quantization.budget.SPENT", 1e6)
    own = case(AUTO, 30.0)
    _, plan = within(own, 0.9995)
    assert plan.budget is not None
    assert plan.budget.reached >= 0.9995
    assert plan.nodes("int8") == OPS


def test_costlier_recipes_before_float_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.quantization.budget.Case.solutions", _only_plain)
    own = case(AUTO, 30.0)
    _, plan = within(own, 0.999)
    assert plan.nodes("int8") == OPS
    assert of(plan, "ruined").recipe not in {None, "plain"}


def _only_plain(own: Case, progress: Quiet) -> dict:
    from calib8.graph.site import sites
    from calib8.quantization.solve import solve

    return {
        op.name: solve(own.statistics[site.tensor], site, (Recipe(),))
        for site in sites(own.model, set(OPS))
        for op in site.ops
    }


def test_the_order_of_recipes_has_no_doubles() -> None:
    assert len(set(ORDER)) == len(ORDER)


def test_head_room_of_one_standard_error() -> None:
    assert Reached(0.9, 0.01).keeps(0.89)
    assert not Reached(0.9, 0.011).keeps(0.89)


@pytest.mark.parametrize("cost", [0.0, -1e-5])
def test_what_was_measured_to_cost_nothing_is_not_free(cost: float) -> None:
    own = case(AUTO, 30.0)
    search = _Search(own, probe_of(own.model), 0.9, Quiet(), own.solutions(Quiet()))
    search.costs = dict.fromkeys(search.costs, cost)
    assert search._affordable(1e-9) == {}
    assert {type(trial) for trial in search._affordable(1.0).values()} == {Trial}
    search.floats = OPS
    assert search._affordable(1.0) == {}


@pytest.mark.parametrize("target", [None, 0.9995])
def test_folding_that_overflows_in_half_is_undone(monkeypatch: pytest.MonkeyPatch, notes, target: float | None) -> None:
    own, probe = attention()
    # what folds into attention's product, the one of FP16 here that overflows: as if INT8 were worth it behind it
    monkeypatch.setattr("calib8.quantization.policy.not_faster", lambda *given: {})

    def found() -> tuple[ir.Model, QuantPlan]:
        if target is None:
            return quantise_guarded(own, probe, notes)
        return quantise_within(own, probe, Least(name="cosine", least=target), notes)

    kinds = [node.op_type for node in found()[0].graph]
    assert "Mul" not in kinds  # folded, and said nothing of
    assert not [message for message in notes.messages if "folded" in message]
    smoothing = design._smoothing
    huge = lambda reach, weight, alpha: smoothing(reach, weight, alpha) * (1e-5 if alpha else 1)  # noqa: E731
    monkeypatch.setattr(design, "_smoothing", huge)  # the same codes
    quantised, plan = found()
    assert "Mul" in [node.op_type for node in quantised.graph]
    assert plan.nodes("int8") == ["q", "k", "v", "o"]
    assert probe.score(quantised) > 0.99
    assert [message for message in notes.messages if "FP16 overflows or rounds too much" in message]
    assert repeats(quantised, own.ranges.origin, own.config)
