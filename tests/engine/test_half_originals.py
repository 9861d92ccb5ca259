"""A model that computes in FP16, as people have them, goes the way of its FP32 original; its ends stay FP16."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.transformers.float16 import convert_float_to_float16

import calib8
from calib8.testing import tiny_convnet, tiny_encoder, token_feeds

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


@pytest.mark.parametrize("kind", ["encoder", "cnn"])
def test_it_gets_the_plan_and_the_engine_of_its_original(kind: str, tmp_path: Path) -> None:
    original = tiny_encoder(vocabulary=64, width=64, positions=32) if kind == "encoder" else tiny_convnet()
    halved = ir.from_proto(convert_float_to_float16(ir.to_proto(original.clone())))
    random = np.random.default_rng(0)
    feeds = token_feeds(*([3, 9, 17, 30] * 8), vocabulary=64)
    if kind == "cnn":
        feeds = {"image": random.standard_normal((32, 3, 8, 8)).astype(np.float32)}
    reports = []
    for name, model in (("original", original), ("halved", halved)):
        ir.save(model, tmp_path / f"{name}.onnx")
        build = calib8.Build(targets=("sm86",))
        chosen = calib8.Convert(build=build, verify=calib8.Verify(min_cosine=0.5), quantize=calib8.Int8(min_sqnr_db=0))
        ends = {value.name: value.dtype.numpy() for value in model.graph.inputs}
        arrays = {key: array.astype(ends[key]) for key, array in feeds.items()}
        reports.append(calib8.convert(tmp_path / f"{name}.onnx", [arrays], tmp_path / name, chosen))
    first, second = reports
    assert (second.int8_ops, second.weighted_ops) == (first.int8_ops, first.weighted_ops)
    assert second.engines[0].plan.missing == ()
    assert second.engines[0].plan.covered == first.engines[0].plan.covered
    for name, output in second.accuracy.outputs.items():
        assert output.mean == pytest.approx(first.accuracy.outputs[name].mean, abs=0.02)
    sidecar = json.loads((tmp_path / "halved" / f"{second.engines[0].file.name}.json").read_text())
    floats = {tensor["dtype"] for tensor in sidecar["tensors"] if "float" in tensor["dtype"]}
    assert floats == {"float16"}
