import json
from pathlib import Path

import onnx_ir as ir
import pytest

from calib8.calibration.ranges import Origin, Ranges, TensorRange
from calib8.errors import ConfigError, RangesError
from calib8.graph.weighted import weighted_ops
from calib8.planning.config import Int8
from calib8.planning.policy import make_plan


def ranges_for(model: ir.Model, **amax: float) -> Ranges:
    """Ranges with amax 12.7 and typical 1, hence 30.8 dB (see test_ranges), but for ops named in ``amax``."""
    tensors = {}
    for op in weighted_ops(model):
        value = amax.get(op.name, 12.7)
        tensors[op.activation.name] = TensorRange(amax=value, minimum=-value, maximum=value, typical=1)
    origin = Origin(model_sha256="m", data_sha256="d", settings={}, tools={})
    return Ranges(origin=origin, samples=1, positions=1, tensors=tensors)


def treatments(model: ir.Model, ranges: Ranges, **options: object) -> dict[str, str]:
    return {op.node: op.treatment for op in make_plan(model, ranges, Int8(**options)).ops}


def test_everything_becomes_int8(encoder: ir.Model) -> None:
    plan = make_plan(encoder, ranges_for(encoder), Int8())
    assert plan.nodes("int8") == ["q", "k", "v", "o", "up", "down"]
    assert plan.nodes("float") == []
    first = plan.ops[0]
    assert (first.kind, first.input, first.amax, first.sqnr_db) == ("MatMul", "norm0_out", 12.7, 30.79)
    assert first.reason == "a typical position keeps 30.8 dB"


def test_outliers_stay_in_float(encoder: ir.Model) -> None:
    # ten times the amax costs 20 dB: 30.8 - 20 = 10.8 dB is less than 14
    plan = make_plan(encoder, ranges_for(encoder, down=127.0), Int8())
    assert plan.nodes("float") == ["down"]
    assert plan.ops[-1].reason == "outliers: a typical position would keep 10.8 dB, less than 14"
    assert make_plan(encoder, ranges_for(encoder, down=127.0), Int8(min_sqnr_db=10)).nodes("float") == []


def test_a_tensor_of_zeros_is_no_outlier(encoder: ir.Model) -> None:
    plan = make_plan(encoder, ranges_for(encoder, down=0.0), Int8())
    assert (plan.ops[-1].treatment, plan.ops[-1].sqnr_db) == ("int8", None)


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


def test_plan_is_readable_json(encoder: ir.Model, tmp_path: Path) -> None:
    plan = make_plan(encoder, ranges_for(encoder, down=0.0), Int8(exclude=("o",)))
    plan.save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["format"] == "calib8.plan/1"
    assert [op["node"] for op in content["ops"]] == ["q", "k", "v", "o", "up", "down"]
    assert content["ops"][3]["reason"] == "excluded by name"
    assert type(plan).model_validate(content) == plan
