"""What is proved on a CPU is what runs on the GPU: an engine and the CPU agree in every metric."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import build

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.testing import tiny_encoder, token_feeds

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")

#: Between the engine's number and the CPU's, whatever is measured; of decibels it would say nothing.
AGREED = 1e-3
SAMPLES = 256
Arrays = dict[str, np.ndarray]


def encoder() -> tuple[ir.Model, Arrays, str]:
    """Vectors of tokens; every text is there twice, so that no nearest neighbour is a matter of the last bit."""
    lengths = np.random.default_rng(1).integers(3, 31, SAMPLES // 2)
    feeds = {name: np.concatenate([array, array]) for name, array in token_feeds(*lengths, vocabulary=64).items()}
    return tiny_encoder(vocabulary=64, width=64, positions=32), feeds, "input_ids:1x1:8x16:32x32"


def price() -> tuple[ir.Model, Arrays, str]:
    """A number for each sample, beyond 65,504."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64)
    h = g.op("Relu", g.op("MatMul", x, g.weight("w", 64, 128), name="hidden"))
    scaled = g.op("Mul", g.op("MatMul", h, g.weight("v", 128, 1), name="head"), g.constant("deviation", 4e4))
    feeds = {"x": np.random.default_rng(2).normal(size=(SAMPLES, 64)).astype(np.float32)}
    return g.model(price=g.op("Add", scaled, g.constant("mean", 6e4))), feeds, "x:1x64:8x64:32x64"


def classifier() -> tuple[ir.Model, Arrays, str]:
    """Probabilities of ten classes, far enough apart: what is next to a tie may fall to either side."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 64)
    h = g.op("Relu", g.op("MatMul", x, g.constant("w", np.eye(64)), name="hidden"))
    scores = g.op("MatMul", h, g.constant("v", np.eye(64, 10)), name="head")
    random = np.random.default_rng(3)
    rows = random.uniform(0, 1, (SAMPLES, 64))
    rows[:, :10] = random.permuted(np.tile(np.arange(10) / 3, (SAMPLES, 1)), axis=1)
    return g.model(scores=g.op("Softmax", scores, axis=-1)), {"x": rows.astype(np.float32)}, "x:1x64:8x64:32x64"


@pytest.mark.parametrize("make", [encoder, price, classifier])
def test_the_engine_and_the_cpu_agree_in_every_metric(
    make: Callable[[], tuple[ir.Model, Arrays, str]], tmp_path: Path, measured: Callable[[str], None]
) -> None:
    model, feeds, shapes = make()
    ir.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **feeds)
    original = calib8.load(tmp_path / "model.onnx")
    ranges = calib8.calibrate(original, tmp_path / "data.npz")
    int8 = calib8.quantize(original, ranges, calib8.Quantize(min_sqnr_db=0), data=tmp_path / "data.npz")
    calib8.save(int8, tmp_path / "int8.onnx")
    engine = build(tmp_path / "int8.onnx", tmp_path / "int8.engine", shapes=(shapes,))
    proof, ran = (
        calib8.compare(tmp_path / "model.onnx", candidate, tmp_path / "data.npz")
        for candidate in (tmp_path / "int8.onnx", engine)
    )
    assert "FP16 rounded behind every op" in str(proof.runtime)
    assert list(proof.outputs) == list(ran.outputs)
    for name, expected in proof.outputs.items():
        found = ran.outputs[name]
        pairs = {"mean": (expected.mean, found.mean), "p1": (expected.p1, found.p1)}
        pairs |= {measure: (value, found.measures[measure]) for measure, value in expected.measures.items()}
        told = ", ".join(f"{measure} {cpu:.5f} and {gpu:.5f}" for measure, (cpu, gpu) in pairs.items())
        measured(f"{make.__name__}, {name} as {expected.kind}, CPU and engine: {told}")
        for measure, (cpu, gpu) in pairs.items():
            assert gpu == pytest.approx(cpu, abs=AGREED), measure
