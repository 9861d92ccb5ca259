"""Residual blocks of convolutions, on this GPU's TensorRT: convolution, sum, ReLU and codes are one kernel."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import build, layers_in

import calib8
from calib8.graph.builder import GraphBuilder

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")
CHANNELS, SIZE = 64, 28


class Net(GraphBuilder):
    """Convolutions of 64 channels, 3x3."""

    def conv(self, x: ir.Value, name: str, inputs: int = CHANNELS) -> ir.Value:
        """He's weights."""
        weight = self.random.normal(size=(CHANNELS, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))
        return self.op("Conv", x, self.constant(f"{name}.w", weight), name=name, pads=[1, 1, 1, 1])


def blocks() -> ir.Model:
    """A block that adds two convolutions, and one that adds its input."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), "stem", 3), name="relu_stem")
    x = g.op("Relu", g.op("Add", g.conv(x, "main1"), g.conv(x, "shortcut"), name="sum1"), name="relu1")
    x = g.op("Relu", g.op("Add", g.conv(x, "main2"), x, name="sum2"), name="relu2")
    return g.model(y=g.op("GlobalAveragePool", g.conv(x, "last")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    ir.save(blocks(), folder / "model.onnx")
    images = np.random.default_rng(0).normal(size=(16, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(folder / "data.npz", x=images)
    model = calib8.load(folder / "model.onnx")
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize="latency")
    int8 = calib8.quantize(model, calib8.calibrate(model, folder / "data.npz"), config)
    calib8.save(int8, folder / "int8.onnx")
    shapes = (f"x:1x3x{SIZE}x{SIZE}:16x3x{SIZE}x{SIZE}:16x3x{SIZE}x{SIZE}",)
    build(folder / "int8.onnx", folder / "int8.engine", shapes=shapes, log=folder / "build.log")
    return folder


def test_it_computes_what_the_model_does(folder: Path) -> None:
    calib8.verify(folder / "model.onnx", folder / "int8.engine", folder / "data.npz", calib8.Verify(min_cosine=0.99))


def test_each_sum_is_in_the_kernel_of_a_convolution_and_gives_codes(folder: Path, measured) -> None:
    layers = layers_in(folder / "build.log")
    sums = {name: layer for layer in layers for name in ("sum1", "sum2") if name in layer.nodes}
    measured(f"kernels with sums: {[(name, one.kind, one.tactic, one.outputs) for name, one in sums.items()]}")
    assert {name: (one.kind, one.outputs[0].dtype) for name, one in sums.items()} == {
        "sum1": ("CaskConvolution", "Int8"),
        "sum2": ("CaskConvolution", "Int8"),
    }


def test_small_weights_of_large_numbers_keep_eight_bits(tmp_path: Path) -> None:
    """Scales of some 2^-17, subnormal in FP16: rounded to 2^-14, codes to 18 would leave a cosine of 0.999."""
    g = Net()
    weight = g.constant("small.w", g.random.normal(size=(CHANNELS, 3, 3, 3)) * 3.6e-4)
    x = g.op("Conv", g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), weight, name="small", pads=[1, 1, 1, 1])
    ir.save(g.model(y=g.op("GlobalAveragePool", g.op("Relu", x))), tmp_path / "model.onnx")
    images = np.random.default_rng(0).uniform(0, 255, size=(16, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images)
    model = calib8.load(tmp_path / "model.onnx")
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize="latency")
    calib8.save(calib8.quantize(model, calib8.calibrate(model, tmp_path / "data.npz"), config), tmp_path / "int8.onnx")
    shapes = (f"x:1x3x{SIZE}x{SIZE}:16x3x{SIZE}x{SIZE}:16x3x{SIZE}x{SIZE}",)
    build(tmp_path / "int8.onnx", tmp_path / "int8.engine", shapes=shapes, log=tmp_path / "build.log")
    limits = calib8.Verify(min_cosine=0.9998)
    calib8.verify(tmp_path / "model.onnx", tmp_path / "int8.engine", tmp_path / "data.npz", limits)
