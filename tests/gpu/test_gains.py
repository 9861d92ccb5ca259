"""``convert`` times op by op what INT8 gains on this GPU, and the plan says what that left in FP16."""

import json
from pathlib import Path

import pytest
from engines import SHAPES, write_encoder

import calib8
from calib8.engine.sidecar import describe_engine
from calib8.graph.io import load
from calib8.provenance import PLAN
from calib8.quantization.quant_plan import QuantPlan

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")


def test_every_op_is_timed_in_one_group_and_what_is_left_out_has_its_reason(tmp_path: Path, notes, measured) -> None:
    model, out = write_encoder(tmp_path, width=256), tmp_path / "out"
    options = calib8.Convert(
        quantize=calib8.Int8(optimize="latency"),
        build=calib8.Build(family="tensorrt", shapes=SHAPES),
        verify=calib8.Verify(min_cosine=0.99),
    )
    report = calib8.convert(model, tmp_path / "data.npz", out, options, progress=notes)
    gains, plan = report.gains, QuantPlan.load(out / "plan.json")
    assert gains is not None
    assert report.gpu_speed is not None
    assert list(gains.shapes) == [cell.shape for cell in report.gpu_speed.cells]
    assert sorted(name for gain in gains.gains for name in gain.ops) == sorted(op.node for op in plan.ops)
    assert all(gain.found for gain in gains.gains)
    assert all(one.float_ms > 0 and one.int8_ms > 0 for gain in gains.gains for one in gain.times)
    reasons = {op.node for op in plan.ops if op.reason.startswith("INT8 takes ")}
    assert reasons == set(gains.left_out)
    assert (gains.without is not None) >= bool(gains.left_out)
    engine = describe_engine(out / report.engines[0].file.name)
    assert QuantPlan.model_validate_json(engine.model_metadata[PLAN]) == plan
    assert "What INT8 gains, op by op" in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["gains"]["runtime"] == gains.runtime
    for gain in gains.gains:
        times = ", ".join(f"{one.float_ms:.4f} / {one.int8_ms:.4f}" for one in gain.times)
        measured(f"{gain.told}: {times} ms in FP16 / INT8 at {', '.join(gains.shapes)}")
    measured(f"left in FP16: {', '.join(gains.left_out) or 'nothing'}")
    again = calib8.convert(model, tmp_path / "data.npz", out, options, progress=notes)
    assert again.gains == gains
    assert again.int8 == report.int8
    assert load(out / "model.int8.onnx").metadata_props[PLAN] == engine.model_metadata[PLAN]
