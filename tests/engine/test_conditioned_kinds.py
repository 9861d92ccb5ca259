"""What conditioning does beyond an encoder's GEMMs: convolutions and side branches in real TensorRT-RTX engines."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.quantization.design import Recipe
from calib8.quantization.solve import solve

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

IMAGES = "image:1x64x16x16:4x64x16x16:8x64x16x16"


def convnet() -> ir.Model:
    """``image`` -> pointwise, depthwise and dense Conv, each with a Relu -> ``y``."""
    g = GraphBuilder()
    x = g.input("image", ir.DataType.FLOAT, "batch", 64, 16, 16)
    x = g.op("Relu", g.op("Conv", x, g.weight("pointwise.weight", 64, 64, 1, 1), name="pointwise"))
    x = g.op(
        "Relu", g.op("Conv", x, g.weight("depthwise.weight", 64, 1, 3, 3), name="depthwise", group=64, pads=[1] * 4)
    )
    x = g.op("Relu", g.op("Conv", x, g.weight("dense.weight", 64, 64, 3, 3), name="dense", pads=[1] * 4))
    return g.model(y=x)


def gemms() -> ir.Model:
    """``x`` -> MatMul, bias, Relu -> MatMul -> ``y``."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 128)
    x = g.op("Add", g.op("MatMul", x, g.weight("up.weight", 128, 256), name="up"), g.weight("up.bias", 256))
    return g.model(y=g.op("MatMul", g.op("Relu", x), g.weight("down.weight", 256, 64), name="down"))


@pytest.mark.parametrize(
    ("model", "recipe", "kinds", "shapes"),
    [
        (convnet, Recipe(smooth=0.5, shift=True, split=0.5), {"Sub", "Gather", "Mul"}, IMAGES),
        (convnet, Recipe(smooth=1.0), {"Mul"}, IMAGES),
        (convnet, Recipe(smooth=0.5), {"Mul"}, IMAGES),
        (gemms, Recipe(smooth=0.5, shift=True, side=32), {"Sub", "Gather", "Mul"}, "x:1x128:64x128:256x128"),
    ],
    ids=["pointwise", "depthwise", "dense", "side branch"],
)  # fmt: skip
def test_every_op_runs_in_int8(
    model, recipe: Recipe, kinds: set[str], shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib8.quantization.apply.solve", partial(solve, recipes=(recipe,)))
    ir.save(model(), tmp_path / "model.onnx")
    loaded = calib8.load(tmp_path / "model.onnx")
    (name,) = (value.name for value in loaded.graph.inputs)
    size = [dimension for dimension in loaded.graph.inputs[0].shape if isinstance(dimension, int)]
    x = np.random.default_rng(0).normal(size=(96, *size)).astype(np.float32)
    x[:, 5] *= 20
    ranges = calib8.calibrate(loaded, [{name: x}])
    int8 = calib8.quantize(loaded, ranges, calib8.Int8(min_sqnr_db=0, max_damage=2), data=[{name: x}])
    assert kinds <= {node.op_type for node in int8.graph}
    calib8.save(int8, tmp_path / "model.int8.onnx")
    (engine,) = calib8.build(
        tmp_path / "model.int8.onnx", tmp_path / "m.engine", calib8.Build(targets=("sm86",), shapes=(shapes,))
    )
    assert engine.plan.missing == ()
    assert (
        engine.plan.covered == engine.plan.expected == len([n for n in loaded.graph if n.op_type in ("Conv", "MatMul")])
    )
    assert engine.plan.conditioning > 0
    assert engine.plan.unfused == ()
