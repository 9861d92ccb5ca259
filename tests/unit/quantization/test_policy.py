import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from speech import speech_model

from calib8.calibration.ranges import Ranges, TensorRange
from calib8.errors import ConfigError, RangesError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import SOURCE_SHA256
from calib8.graph.weighted import weighted_ops
from calib8.passes.condition import Codes, Quantised
from calib8.passes.prepare import prepare
from calib8.provenance import Origin
from calib8.quantization.config import Int8
from calib8.quantization.design import Channels, Recipe, design
from calib8.quantization.policy import candidates, make_plan, selected
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.rounding import nearest
from calib8.quantization.solve import Solution
from calib8.quantization.trials import Trial

PLAIN = Recipe()


def ranges_for(model: ir.Model, **amax: float) -> Ranges:
    """Ranges with amax 12.7 and typical 1, hence 30.8 dB (see test_ranges), but for ops named in ``amax``."""
    tensors = {}
    for op in weighted_ops(model):
        value = amax.get(op.name, 12.7)
        tensors[op.activation.name] = TensorRange(amax=value, minimum=-value, maximum=value, typical=1)
    origin = Origin(model_sha256="m", data_sha256="d", settings={}, tools={})
    return Ranges(origin=origin, samples=1, positions=1, tensors=tensors)


def solution(error: float, recipe: Recipe = PLAIN, width: int = 8) -> Solution:
    """Some solution of a site with that many channels, its error as given."""
    ones = np.ones(width, np.float32)
    conditioning = design(Channels(-ones, 0 * ones, ones), ones, recipe)
    rounded = nearest(conditioning.weight(np.ones((width, 1), np.float32)))
    weights = {"op": Codes(rounded.codes, rounded.scale, np.zeros(1, np.float32))}
    trial = Trial(recipe, error)
    return Solution(Quantised(conditioning, weights), trial, (trial,))


def treatments(model: ir.Model, ranges: Ranges, **options: object) -> dict[str, str]:
    return {op.node: op.treatment for op in make_plan(model, ranges, Int8(**options)).ops}


def test_everything_becomes_int8(encoder: ir.Model) -> None:
    plan = make_plan(encoder, ranges_for(encoder), Int8())
    assert plan.nodes("int8") == ["q", "k", "v", "o", "up", "down"]
    assert plan.nodes("float") == []
    first = plan.ops[0]
    assert (first.kind, first.input, first.amax, first.sqnr_db) == ("MatMul", "norm0_out", 12.7, 30.79)
    assert first.reason == "a typical position of its input keeps 30.8 dB"
    assert (first.recipe, first.extra_columns) == (None, 0)


def test_outliers_stay_in_float(encoder: ir.Model) -> None:
    # ten times the amax costs 20 dB: 30.8 - 20 = 10.8 dB is less than 14
    plan = make_plan(encoder, ranges_for(encoder, down=127.0), Int8())
    assert plan.nodes("float") == ["down"]
    assert plan.ops[-1].reason == "outliers: a typical position would keep 10.8 dB, less than 14"
    assert make_plan(encoder, ranges_for(encoder, down=127.0), Int8(min_sqnr_db=10)).nodes("float") == []


@pytest.mark.parametrize("solved", [None, solution(0.0)], ids=["ranges alone", "solved"])
@pytest.mark.parametrize("least", [0, 14])
def test_a_tensor_of_zeros_stays_in_float(encoder: ir.Model, solved: Solution | None, least: float) -> None:
    """A grid for zeros would turn whatever comes later into zeros or into its largest value."""
    found = {} if solved is None else {"down": solved}
    last = make_plan(encoder, ranges_for(encoder, down=0.0), Int8(min_sqnr_db=least), found).ops[-1]
    assert (last.node, last.treatment, last.sqnr_db) == ("down", "float", None)
    assert last.reason == "calibration saw nothing but zero at its input"


def test_mostly_zeros_stay_in_float(encoder: ir.Model) -> None:
    ranges = ranges_for(encoder)
    tensor = weighted_ops(encoder)[-1].activation.name
    ranges.tensors[tensor] = ranges.tensors[tensor].model_copy(update={"typical": 0.0})
    last = make_plan(encoder, ranges, Int8()).ops[-1]
    assert (last.treatment, last.sqnr_db) == ("float", None)
    assert last.reason == "calibration saw mostly positions of nothing but zero at its input"


def test_solved_ops_are_judged_by_their_output(encoder: ir.Model) -> None:
    # an error of 1 % is 20 dB, one of 10 % 10 dB; the outlier at the input of o counts no more
    recipe = Recipe(shift=True, split=4.0)  # 8 columns are filled up to 32
    plan = make_plan(encoder, ranges_for(encoder, o=1270.0), Int8(), {"o": solution(0.01, recipe), "up": solution(0.1)})
    got = {op.node: op for op in plan.ops}
    assert (got["o"].treatment, got["o"].sqnr_db) == ("int8", 20)
    assert (got["o"].recipe, got["o"].extra_columns) == ("shift + split 400%", 24)
    assert got["o"].reason == "shift + split 400%: its output keeps 20.0 dB on held-out rows"
    assert (got["up"].treatment, got["up"].sqnr_db, got["up"].recipe) == ("float", 10, None)
    assert got["up"].reason == "plain: its output would keep only 10.0 dB, less than 14"
    assert got["q"].recipe is None


def test_readers_that_are_no_part_of_the_site_are_judged_by_their_input() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 8)
    a = g.op("MatMul", x, g.weight("a.weight", 8, 4), name="a")
    b = g.op("Gemm", x, g.weight("b.weight", 8, 4), name="b", alpha=2.0)
    model = prepare(g.model(y=a, z=b))
    plan = make_plan(model, ranges_for(model, a=1270.0, b=1270.0), Int8(), {"a": solution(0.01)})
    assert (plan.nodes("int8"), plan.nodes("float")) == (["a"], ["b"])
    assert plan.ops[1].recipe is None
    assert "outliers" in plan.ops[1].reason


@pytest.mark.parametrize(
    ("options", "floats"),
    [
        ({"exclude": ["o"]}, {"o"}),
        ({"exclude": ["?"]}, {"q", "k", "v", "o"}),
        ({"exclude": ["[qk]", "do*"]}, {"q", "k", "down"}),
        ({"include": ["up", "down"]}, {"q", "k", "v", "o"}),
        ({"include": ["?"], "exclude": ["o"]}, {"o", "up", "down"}),  # exclude wins
    ],
)
def test_globs(encoder: ir.Model, options: dict[str, list[str]], floats: set[str]) -> None:
    got = treatments(encoder, ranges_for(encoder), **options)
    assert {name for name, treatment in got.items() if treatment == "float"} == floats


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("glob", ["Q", "layer.*", ""])
def test_glob_that_matches_nothing(encoder: ir.Model, option: str, glob: str) -> None:
    with pytest.raises(ConfigError, match="matches no weighted op. The model's weighted ops are named like: q, k, v"):
        make_plan(encoder, ranges_for(encoder), Int8(**{option: ("q", glob)}))


def test_ranges_of_another_model(encoder: ir.Model) -> None:
    ranges = ranges_for(encoder)
    del ranges.tensors["norm1_out"], ranges.tensors["norm0_out"]
    with pytest.raises(RangesError, match="hold no entry for 2 tensors of this model, e.g. 'norm0_out'.*another model"):
        make_plan(encoder, ranges, Int8())


def test_ranges_of_a_retrained_model(encoder: ir.Model) -> None:
    """The same names, other weights: only the hash can tell."""
    ranges = ranges_for(encoder)
    encoder.metadata_props[SOURCE_SHA256] = "0123456789abcdef"
    with pytest.raises(
        RangesError, match="from another model: its SHA-256 begins with m, this one's with 0123456789ab"
    ):
        make_plan(encoder, ranges, Int8())
    encoder.metadata_props[SOURCE_SHA256] = "m"
    assert make_plan(encoder, ranges, Int8()).nodes("int8")


def test_plan_is_readable_json(encoder: ir.Model, tmp_path: Path) -> None:
    plan = make_plan(encoder, ranges_for(encoder, down=0.0), Int8(exclude=("o",)))
    plan.save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["format"] == "calib8.plan/1"
    assert [op["node"] for op in content["ops"]] == ["q", "k", "v", "o", "up", "down"]
    assert content["ops"][3]["reason"] == "left out by name"
    assert content["ops"][5]["treatment"] == "float"
    assert type(plan).model_validate(content) == plan


@pytest.mark.parametrize("names", [("Net/Block[0]/fc", "Net/Block[1]/fc"), ("layers.[0].fc", "layers.0.fc")])
def test_a_name_with_brackets_means_that_op(names: tuple[str, str]) -> None:
    g = GraphBuilder()
    hidden = g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 4), g.weight("w", 4, 4), name=names[0])
    model = prepare(g.model(y=g.op("MatMul", hidden, g.weight("v", 4, 3), name=names[1])))
    assert selected(model, Int8(exclude=(names[0],))) == {names[1]}
    assert selected(model, Int8(include=(names[1],))) == {names[1]}
    assert selected(model, Int8(exclude=("*fc",))) == set()


def test_what_nobody_quantises_is_counted_and_told() -> None:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 2, 4, 6)
    mixed = g.op("MatMul", x, g.weight("batched", 2, 6, 6), name="mix")
    model = prepare(g.model(y=g.op("MatMul", mixed, g.weight("w", 6, 3), name="head")))
    plan = make_plan(model, ranges_for(model), Int8())
    assert [(op.node, op.treatment, op.amax) for op in plan.ops] == [("head", "int8", 12.7), ("mix", "float", None)]
    assert plan.describe_float() == (
        "1 of 2 ops with weights stay in float: 1 MatMul, as 'mix': its weight has axes along which TensorRT takes no "
        "scale per output channel"
    )
    assert QuantPlan(ops=plan.ops[:1]).describe_float() is None


def test_what_a_length_is_computed_from_stays_in_float() -> None:
    model = prepare(speech_model())
    plan = make_plan(model, ranges_for(model), Int8())
    assert {op.node: op.treatment for op in plan.ops} == {
        "encoder": "float", "durations": "float", "flow": "int8", "decoder": "int8",
    }  # fmt: skip
    reason = "sizes of tensors are computed from its result, as the length of speech is from durations"
    assert plan.ops[0].reason == reason
    assert candidates(model, Int8()) == {"flow", "decoder"}
