"""What TensorRT-RTX plans of products the other way round: calib8 goes by that."""

from pathlib import Path

import engine_models as tiny
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import calib8
from calib8.engine.arithmetic import multiplies
from calib8.engine.layers_log import layers_from_log
from calib8.engine.process import run_worker
from calib8.graph.builder import GraphBuilder
from calib8.progress import Quiet

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


@pytest.mark.parametrize("target", ["sm75", "sm86"])
def test_a_constant_on_the_left_is_multiplied_in_int8(tmp_path: Path, target: str) -> None:
    """As token mixing does: a MatMul by the left, a bias and the original order again; no transpose is a kernel."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64, 128)
    mixed = g.op("MatMul", g.weight("mix", 96, 64), g.op("Tanh", x), name="mix")
    h = g.op("Relu", g.op("Add", mixed, g.weight("b", 96, 1)))
    ir.save(g.model(y=g.op("MatMul", h, g.weight("w", 128, 64), name="head")), tmp_path / "model.onnx")
    data = [{"x": np.random.default_rng(0).standard_normal((32, 64, 128)).astype(np.float32)}]
    chosen = calib8.Convert(build=calib8.Build(targets=(target,), log=tmp_path / "log"))
    report = calib8.convert(tmp_path / "model.onnx", data, tmp_path / "out", chosen)
    assert (report.int8_ops, report.weighted_ops) == (2, 2)
    plan = report.engines[0].plan
    assert (plan.covered, plan.expected, plan.planned_kernels) == (2, 2, 2)
    assert "Transpose" not in [layer.kind for layer in layers_from_log((tmp_path / "log").read_text().splitlines())]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_transposed_convolution_computes_in_float_whatever_its_scales_are(tmp_path: Path, axis: int) -> None:
    """Why calib8 leaves it in float: if this fails, TensorRT-RTX has learned it, and so can ``graph.left_out``."""
    g = tiny.Graph()
    y = g.node("ConvTranspose", [g.pair("x"), g.weight("w", (64, 32, 2, 2), axis)], "h", name="up", strides=[2, 2])
    g.node("Relu", [y], "y")
    onnx.save(g.model({"x": ["n", 64, 16, 16]}, {"y": ["n", 32, 32, 32]}), tmp_path / "m.onnx")
    request = {
        **{"model": str(tmp_path / "m.onnx"), "engine": str(tmp_path / "e"), "family": "rtx", "target": "sm86"},
        **{"stage": "build", "profiles": [{"x": [[n, 64, 16, 16] for n in (1, 4, 8)]}], "options": {}},
        **{"timings": None, "calibration": None},
    }
    layers = layers_from_log(run_worker(request, Quiet()).log.messages())
    [up] = [layer for layer in layers if layer.kind == "deconv"]
    assert [tensor.dtype.split()[0] for tensor in up.inputs[:2]] == ["Half", "Half"]
    assert not any(multiplies(layer, "int8") for layer in layers)
