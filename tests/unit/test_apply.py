import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.calibration import run
from calib8.calibration.config import Calibrate
from calib8.calibration.ranges import Ranges
from calib8.data.sources import Batches
from calib8.errors import ConfigError
from calib8.graph.dataset import dataset_for
from calib8.graph.io import serialized
from calib8.passes import quantize_embedding
from calib8.planning.apply import CALIBRATION, MADE_BY, PLAN, apply_plan
from calib8.planning.config import Int8
from calib8.planning.policy import make_plan
from calib8.planning.quant_plan import QuantPlan
from calib8.testing import outputs_of, token_feeds

FEEDS = token_feeds(9, 5, 7, 3)


@pytest.fixture
def ranges(encoder: ir.Model, notes) -> Ranges:
    data = dataset_for(encoder, Batches(FEEDS), notes)
    return run.calibrate(encoder, data, Calibrate(), run.origin_of("model", data.fingerprint, Calibrate()), notes)


def applied(model: ir.Model, ranges: Ranges, **options: object) -> ir.Model:
    config = Int8(min_sqnr_db=0, **options)
    return apply_plan(model, ranges, make_plan(model, ranges, config), config)


def types(model: ir.Model) -> set[ir.DataType | None]:
    return {value.dtype for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
@pytest.mark.parametrize("embedding", [False, True])
def test_a_valid_close_model_and_an_untouched_original(
    encoder: ir.Model, ranges: Ranges, remainder: str, embedding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize_embedding, "MINIMUM_BYTES", 1)
    before = serialized(encoder)
    model = applied(encoder, ranges, remainder=remainder, embedding=embedding)
    assert serialized(encoder) == before
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert (ir.DataType.FLOAT16 in types(model)) == (remainder == "fp16")
    assert ("words_quantized" in model.graph.initializers) == embedding
    expected, got = (outputs_of(m, FEEDS)["last_hidden_state"] for m in (encoder, model))
    assert 0 < np.abs(got - expected).max() < 0.15


def test_left_out_ops_stay_in_float(encoder: ir.Model, ranges: Ranges) -> None:
    model = applied(encoder, ranges, exclude=("down",), remainder="fp32")
    down = next(node for node in model.graph if node.name == "down")
    assert down.inputs[1].name == "down.weight"
    up = next(node for node in model.graph if node.name == "up")
    assert up.inputs[1].producer().op_type == "DequantizeLinear"


def test_the_model_tells_how_it_was_made(encoder: ir.Model, ranges: Ranges) -> None:
    model = applied(encoder, ranges, exclude=("o",))
    plan = QuantPlan.model_validate_json(model.metadata_props[PLAN])
    assert plan.nodes("float") == ["o"]
    assert json.loads(model.metadata_props[CALIBRATION])["model_sha256"] == "model"
    assert json.loads(model.metadata_props[MADE_BY])["int8"]["exclude"] == ["o"]
    assert PLAN not in encoder.metadata_props


def test_nothing_left_to_quantise(encoder: ir.Model, ranges: Ranges) -> None:
    with pytest.raises(ConfigError, match="the plan leaves every op in float: there is nothing to quantise"):
        applied(encoder, ranges, exclude=("*",))


def test_the_same_input_gives_the_same_bytes(encoder: ir.Model, ranges: Ranges) -> None:
    assert serialized(applied(encoder, ranges)) == serialized(applied(encoder, ranges))
