"""Models migrated from a calibration cache build: the plan of real TensorRT-RTX engines runs every op in INT8."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.testing import tiny_encoder, token_feeds
from tensorrt_cache import tensorrt_cache

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

RANDOM = np.random.default_rng(0)


def convnet() -> ir.Model:
    """``image`` -> Conv, Relu, depthwise Conv, Clip, residual Conv -> mean -> Flatten, Gemm -> Softmax."""
    g = GraphBuilder()
    image = g.input("image", ir.DataType.FLOAT, "batch", 32, 16, 16)
    x = g.op("Relu", g.op("Conv", image, g.weight("stem.weight", 64, 32, 3, 3), name="stem", pads=[1] * 4))
    y = g.op("Conv", x, g.weight("depthwise.weight", 64, 1, 3, 3), name="depthwise", group=64, pads=[1] * 4)
    y = g.op("Clip", y, g.constant("zero", 0.0), g.constant("six", 6.0), name="relu6")
    x = g.op("Add", x, g.op("Conv", y, g.weight("pointwise.weight", 64, 64, 1, 1), name="pointwise"))
    x = g.op("Flatten", g.op("GlobalAveragePool", x, name="mean"), name="flat")
    return g.model(y=g.op("Softmax", g.op("Gemm", x, g.weight("head.weight", 64, 32), name="head"), axis=-1))


CASES = {
    "cnn": (
        convnet,
        {"image": RANDOM.normal(size=(8, 32, 16, 16)).astype(np.float32)},
        "image:1x32x16x16:4x32x16x16:8x32x16x16",
        ["sm86", "sm89", "sm120"],
        4,
    ),
    "transformer": (
        lambda: tiny_encoder(width=64, vocabulary=64, positions=32),
        token_feeds(3, 9, 17, 30, vocabulary=64),
        "input_ids:1x1:4x16:8x32",
        ["sm75", "sm86", "sm89", "sm120"],
        6,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_op_runs_in_int8(case: str, tmp_path: Path) -> None:
    make, feeds, shapes, targets, ops = CASES[case]
    ir.save(make(), tmp_path / "model.onnx")
    text = tensorrt_cache(tmp_path / "model.onnx", feeds)
    (tmp_path / "calibration.cache").write_text(text)
    migration = calib8.migrate(
        tmp_path / "calibration.cache", tmp_path / "model.onnx", tmp_path / "q.onnx", calib8.Migrate(strict=True)
    )
    assert migration.int8_ops == migration.weighted_ops == ops
    assert migration.unknown == ()
    engines = calib8.build(
        tmp_path / "q.onnx", tmp_path / "m.engine", calib8.Build(targets=tuple(targets), shapes=(shapes,))
    )
    assert [engine.target for engine in engines] == targets
    for engine in engines:
        assert engine.plan.missing == ()
        assert engine.plan.covered == engine.plan.expected == ops
    comparison = calib8.verify(tmp_path / "model.onnx", tmp_path / "q.onnx", [feeds])
    assert min(one.mean for one in comparison.outputs.values()) > 0.99  # cosine, or agreement of the best class
    calib8.export_cache(tmp_path / "q.onnx", tmp_path / "back.cache")
    assert (tmp_path / "back.cache").read_text() == text.replace("TRT-8601", "TRT-101600")
