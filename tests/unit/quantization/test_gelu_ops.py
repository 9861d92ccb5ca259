"""GELU becomes one op where latency is asked for, by tanh as long as the model's own output allows it."""

import numpy as np
import pytest
from planted_models import case as planted_case
from planted_models import probe_of as planted_probe
from rich.console import Console

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.data.sources import Batches
from calib8.graph.dataset import dataset_for
from calib8.passes.prepare import prepare
from calib8.quantization.budget import _Search, quantise_within
from calib8.quantization.case import Case
from calib8.quantization.config import Int8
from calib8.quantization.guard import quantise_guarded
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.solve import ROWS, STAIRS
from calib8.report.sections.plan import plan_section
from calib8.report.terminal import render
from calib8.testing import outputs_of, tiny_encoder, token_feeds
from calib8.verification.named import Least


def encoder(config: Int8, notes) -> tuple[Case, Probe]:
    model = prepare(tiny_encoder(width=64, heads=4))
    data = dataset_for(model, Batches([token_feeds(*([3, 9, 13] * 8))]), notes)
    found = one_pass.calibrate(model, data, Calibrate(), origin_of("m", "d", Calibrate()), notes, sample=ROWS)
    return Case(model, found.ranges, found.statistics, config), Probe(model, data)


def kinds(model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "search", [quantise_guarded, lambda c, p, n: quantise_within(c, p, Least(name="cosine", least=0.9), n)]
)
def test_tanh_where_it_costs_next_to_nothing(search, notes) -> None:
    case, probe = encoder(Int8(optimize="latency", max_damage=0.5), notes)
    quantised, plan = search(case, probe, notes)
    assert plan.gelu is not None
    assert (plan.gelu.ops, plan.gelu.approximate) == (1, "tanh")
    assert 0.9999 < plan.gelu.cosine < 1
    assert "Erf" not in kinds(quantised)
    assert "Gelu" in kinds(quantised)
    assert quantised.opset_imports[""] == 20
    assert plan.gelu.describe() in notes.messages
    assert QuantPlan.model_validate_json(plan.model_dump_json()) == plan
    console = Console(width=80, record=True)
    console.print(render(plan_section(plan)))
    assert "GELU is one op (1 of them), by tanh, which costs" in " ".join(console.export_text().split())
    feeds = token_feeds(5, 7)
    got, expected = (outputs_of(model, feeds)["last_hidden_state"] for model in (quantised, case.model))
    assert np.abs(got - expected).max() < 0.3


def test_a_search_solves_by_stairs_what_stairs_were_tried_for(notes) -> None:
    """It asked as for accuracy, where there are none, and got the plain recipe in their place."""
    case, probe = encoder(Int8(optimize="latency", max_damage=0.5), notes)
    case = case.with_gelu_ops(probe, notes)
    search = _Search(case, probe, 0.9, notes, case.solutions(notes))
    site = next(site for site in search._sites() if site.name == "down")
    assert search._solved(site, STAIRS[0]).recipe.stairs == STAIRS[0].stairs
    search.measuring.board.close()


def test_what_it_costs_is_told_of_what_was_measured(notes) -> None:
    case, _ = encoder(Int8(optimize="latency", max_damage=0.5), notes)
    data = dataset_for(case.model, Batches([token_feeds(*([3, 9, 13] * 8))]), notes)
    probe = Probe(case.model, data, kinds={"last_hidden_state": "number"})
    changed = case.with_gelu_ops(probe, notes)
    assert changed.gelu is not None
    assert changed.gelu.describe().endswith("of agreement of numbers in float")


def test_exact_where_tanh_costs_more(notes) -> None:
    case, probe = encoder(Int8(optimize="latency", max_damage=1e-9), notes)
    changed = case.with_gelu_ops(probe, notes)
    assert changed.gelu is not None
    assert changed.gelu.approximate == "none"
    assert changed.gelu.describe().startswith("GELU is one op (1 of them), exact: tanh would cost ")
    (gelu,) = [node for node in changed.model.graph if node.op_type == "Gelu"]
    assert gelu.attributes.get_string("approximate") == "none"
    assert "Erf" in kinds(case.model)  # the case's own is untouched


def test_accuracy_and_models_without_gelu_stay_as_they_are(notes) -> None:
    case, probe = encoder(Int8(), notes)
    assert case.with_gelu_ops(probe, notes) is case
    planted = planted_case(Int8(optimize="latency"))
    changed = planted.with_gelu_ops(planted_probe(planted.model), notes)
    assert changed.model is planted.model
    assert changed.gelu is None
