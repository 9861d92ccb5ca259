"""What INT8 does not make faster stays in float for latency, and nothing is solved for it."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.errors import ConfigError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.provenance import PLAN
from calib8.quantization import apply
from calib8.quantization.config import Int8
from calib8.quantization.policy import candidates, make_plan, selected
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.worth import BEHIND_ATTENTION, not_faster
from calib8.testing import tiny_encoder, tiny_mlp, token_feeds

FLOAT = ir.DataType.FLOAT
OPS = ["q", "k", "v", "o", "up", "down"]


def behind(between, *, constant: bool = False) -> ir.Model:
    """x, w -> product -> what ``between`` makes of it -> ``projection`` -> y; a weight for w where ``constant``."""
    g = GraphBuilder(18)
    x = g.input("x", FLOAT, "batch", 2, 5, 4)
    w = g.weight("w", 4, 4) if constant else g.op("Transpose", x, perm=[0, 1, 3, 2])
    product = g.op("MatMul", x, w, name="product") if constant else g.op("MatMul", g.op("MatMul", x, w), x)
    return prepare(g.model(y=g.op("MatMul", between(g, product), g.weight("p", 8, 3), name="projection")))


def merged(g: GraphBuilder, x: ir.Value, *perm: int) -> ir.Value:
    return g.op("Reshape", g.op("Transpose", x, perm=list(perm)), g.constant("merged", [0, 0, 8], np.int64))


def turned(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return merged(g, x, 0, 2, 1, 3)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_what_projects_heads_and_nothing_else(heads: int) -> None:
    assert not_faster(prepare(tiny_encoder(width=4 * heads, heads=heads))) == {"o": BEHIND_ATTENTION}


@pytest.mark.parametrize(
    "between",
    [
        turned,
        lambda g, x: g.op("Identity", turned(g, g.op("Cast", x, to=int(FLOAT)))),
        lambda g, x: g.op("Squeeze", g.op("Unsqueeze", turned(g, x), axes := g.constant("a", [1], np.int64)), axes),
    ],
    ids=["transposed", "moved more", "with an axis more"],
)
def test_heads_behind_what_only_moves_them(between) -> None:
    assert list(not_faster(behind(between))) == ["projection"]


@pytest.mark.parametrize(
    "between",
    [
        lambda g, x: g.op("Reshape", x, g.constant("flat", [0, 5, 8], np.int64)),  # in the order they come
        lambda g, x: turned(g, g.op("Relu", x)),  # computed once more
        lambda g, x: g.op("Relu", turned(g, x)),
        lambda g, x: turned(g, g.op("Add", x, x)),
    ],
    ids=["not transposed", "an op in front", "an op behind", "a sum"],
)
def test_what_something_else_computes_is_quantised(between) -> None:
    assert not_faster(behind(between)) == {}


def test_a_product_with_a_weight_is_no_attention() -> None:
    assert not_faster(behind(turned, constant=True)) == {}
    assert not_faster(prepare(tiny_mlp())) == {}


def test_an_activation_that_is_an_input_is_read_by_no_attention() -> None:
    g = GraphBuilder()
    x = g.op("Transpose", g.input("x", FLOAT, 4, "batch"), perm=[1, 0])
    assert not_faster(prepare(g.model(y=g.op("MatMul", x, g.weight("w", 4, 4), name="first")))) == {}


def test_candidates_are_what_is_selected_but_for_latency() -> None:
    model = prepare(tiny_encoder())
    assert candidates(model, Int8()) == selected(model, Int8()) == set(OPS)
    assert candidates(model, Int8(optimize="latency")) == set(OPS) - {"o"}
    assert candidates(model, Int8(optimize="latency", include=("o", "up"))) == {"up"}


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ops for whose sites a solution was looked for."""
    found, solve = [], apply.solve

    def noted(seen, site, *given, **told):
        found.extend(op.name for op in site.ops)
        return solve(seen, site, *given, **told)

    monkeypatch.setattr(apply, "solve", noted)
    return found


@pytest.mark.parametrize(("optimize", "floats"), [("latency", ["o"]), ("accuracy", [])])
def test_the_plan_says_why_and_no_site_is_solved(solved: list[str], optimize: str, floats: list[str]) -> None:
    model, data = prepare(tiny_encoder(width=32)), [token_feeds(*([3, 9, 13] * 24))]
    config = Int8(optimize=optimize, min_sqnr_db=0, max_damage=2)
    quantised = calib8.quantize(model, calib8.calibrate(model, data), config, data=data)
    plan = QuantPlan.model_validate_json(quantised.metadata_props[PLAN])
    assert plan.nodes("float") == floats
    assert plan.nodes("int8") == sorted(set(OPS) - set(floats), key=OPS.index)
    assert sorted(solved) == sorted(set(OPS) - set(floats))
    for op in plan.ops:
        assert (op.reason == BEHIND_ATTENTION) == (op.node in floats)
    left = [op.name for op in weighted_ops(quantised)]
    assert left == floats


def test_ranges_alone_leave_it_in_float_too() -> None:
    model = prepare(tiny_encoder(width=32))
    ranges = calib8.calibrate(model, [token_feeds(3, 9)])
    plan = make_plan(model, ranges, Int8(optimize="latency", treatment="plain", min_sqnr_db=0))
    assert [(op.node, op.reason) for op in plan.ops if op.treatment == "float"] == [("o", BEHIND_ATTENTION)]


def test_it_is_not_measured_either(tmp_path: Path) -> None:
    model, data = calib8.save(tiny_encoder(), tmp_path / "m.onnx"), [token_feeds(*([3, 9] * 16))]
    config = Int8(optimize="latency", treatment="plain")
    assert {op.node for op in calib8.sensitivity(model, data, config, samples=2).ops} == set(OPS) - {"o"}
    with pytest.raises(ConfigError, match="or --optimize latency leaves the rest in float"):
        calib8.sensitivity(model, data, Int8(optimize="latency", include=("o",)))
