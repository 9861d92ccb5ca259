"""Residual blocks of convolutions, on this GPU's TensorRT: convolution, sum, ReLU and codes are one kernel."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from engines import build, layers_in

import calib8
from calib8.graph.builder import GraphBuilder
from calib8.quantization.config import Optimize

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


def build_int8(
    folder: Path, images: np.ndarray | None = None, optimize: Optimize = "latency", **options: object
) -> None:
    """``int8.engine`` of ``model.onnx`` there, calibrated on ``images`` or on random ones, and its ``build.log``."""
    if images is None:
        images = np.random.default_rng(0).normal(size=(16, 3, SIZE, SIZE))
    np.savez(folder / "data.npz", x=images.astype(np.float32))
    model = calib8.load(folder / "model.onnx")
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize=optimize)
    int8 = calib8.quantize(model, calib8.calibrate(model, folder / "data.npz"), config)
    calib8.save(int8, folder / "int8.onnx")
    shapes = (f"x:1x3x{SIZE}x{SIZE}:16x3x{SIZE}x{SIZE}:16x3x{SIZE}x{SIZE}",)
    build(folder / "int8.onnx", folder / "int8.engine", shapes=shapes, log=folder / "build.log", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    ir.save(blocks(), folder / "model.onnx")
    build_int8(folder)
    return folder


def test_it_computes_what_the_model_does(folder: Path) -> None:
    calib8.verify(folder / "model.onnx", folder / "int8.engine", folder / "data.npz", calib8.Verify(min_sqnr_db=25))


def test_each_sum_is_in_the_kernel_of_a_convolution_and_gives_codes(folder: Path, measured) -> None:
    layers = layers_in(folder / "build.log")
    sums = {name: layer for layer in layers for name in ("sum1", "sum2") if name in layer.nodes}
    measured(f"kernels with sums: {[(name, one.kind, one.tactic, one.outputs) for name, one in sums.items()]}")
    assert {name: (one.kind, one.outputs[0].dtype) for name, one in sums.items()} == {
        "sum1": ("CaskConvolution", "Int8"),
        "sum2": ("CaskConvolution", "Int8"),
    }


def test_no_kernel_copies_codes(folder: Path) -> None:
    """But the first, which makes them of the image: of Casts before a sum there were two for each shortcut."""
    layers = layers_in(folder / "build.log")
    of_codes = [one for one in layers if {tensor.dtype for tensor in (*one.inputs, *one.outputs)} == {"Int8"}]
    assert {one.kind for one in of_codes} <= {"CaskConvolution", "CaskPooling"}


def test_h_swish_is_in_the_kernel_of_its_convolution(tmp_path: Path, measured) -> None:
    """Written out, with constants, between codes and codes: with constants in FP16 TensorRT 10.6 fails."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), "stem", 3))
    x = g.conv(x, "swished")
    three, none, six, scale = (g.constant(f"c{number}", np.float32(number)) for number in (3, 0, 6, 0.9))
    factor = g.op("Clip", g.op("Add", x, three, name="plus"), none, six)
    x = g.op("Mul", g.op("Div", g.op("Mul", x, factor), six), scale, name="scaled")
    ir.save(g.model(y=g.op("GlobalAveragePool", g.conv(x, "last"))), tmp_path / "model.onnx")
    build_int8(tmp_path)
    limits = calib8.Verify(min_sqnr_db=25)
    calib8.verify(tmp_path / "model.onnx", tmp_path / "int8.engine", tmp_path / "data.npz", limits)
    layers = layers_in(tmp_path / "build.log")
    (layer,) = [one for one in layers if "swished" in one.nodes]
    measured(f"h-swish: {layer.kind}, {layer.tactic}, {layer.inputs} to {layer.outputs}, with {layer.nodes}")
    assert (layer.kind, layer.outputs[0].dtype) == ("CaskConvolution", "Int8")


@pytest.mark.parametrize("optimize", ["accuracy", "latency"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (5, 2)])
def test_convolutions_of_one_channel_each_compute_what_they_should(
    kernel: int, stride: int, optimize: str, tmp_path: Path, measured
) -> None:
    """Depthwise, as in detectors for phones: of one such model TensorRT 10.6 built an engine that is wrong."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), "stem", 3))
    weight = g.constant("each.w", g.random.normal(size=(CHANNELS, 1, kernel, kernel)) * np.sqrt(2) / kernel)
    around = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": CHANNELS}
    x = g.op("Relu", g.op("Conv", x, weight, g.constant("each.b", np.linspace(-1, 1, CHANNELS)), name="each", **around))
    ir.save(g.model(y=g.op("GlobalAveragePool", g.conv(x, "last"))), tmp_path / "model.onnx")
    build_int8(tmp_path, optimize=optimize)
    (layer,) = [one for one in layers_in(tmp_path / "build.log") if "each" in one.nodes]
    measured(f"depthwise {kernel}, stride {stride}, for {optimize}: {layer.kind}, {layer.tactic}, {layer.inputs}")
    limits = calib8.Verify(min_sqnr_db=25)
    calib8.verify(tmp_path / "model.onnx", tmp_path / "int8.engine", tmp_path / "data.npz", limits)


@pytest.mark.parametrize("kind", ["none", "Relu", "residual"])
def test_a_depthwise_convolution_that_gives_float_is_fp16_with_a_constant_weight(
    kind: str, tmp_path: Path, measured
) -> None:
    """TensorRT 10.6 has no kernel in INT8 for it, and is wrong if the weight is dequantised in every run."""
    g = Net()
    x = g.op("Relu", g.conv(g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), "stem", 3))
    weight = g.constant("each.w", g.random.normal(size=(CHANNELS, 1, 3, 3)) * np.sqrt(2) / 3)
    y = g.op("Conv", x, weight, name="each", pads=[1] * 4, group=CHANNELS)
    y = {"none": lambda: y, "Relu": lambda: g.op("Relu", y), "residual": lambda: g.op("Add", y, x)}[kind]()
    ir.save(g.model(y=g.op("GlobalAveragePool", y)), tmp_path / "model.onnx")
    build_int8(tmp_path, optimize="accuracy", check_plan=False)
    (layer,) = [one for one in layers_in(tmp_path / "build.log") if "each" in one.nodes]
    measured(f"depthwise, {kind}, float: {layer.kind}, {layer.tactic}, {layer.inputs}")
    assert [tensor.dtype for tensor in layer.inputs][:1] == ["Half"]
    limits = calib8.Verify(min_sqnr_db=25)
    calib8.verify(tmp_path / "model.onnx", tmp_path / "int8.engine", tmp_path / "data.npz", limits)


@pytest.mark.parametrize("kind", ["HardSwish", "LeakyRelu", "Sigmoid"])
@pytest.mark.parametrize("to", ["codes", "float"])
def test_an_activation_behind_int8_builds_at_once_and_is_right(kind: str, to: str, tmp_path: Path, measured) -> None:
    """Between codes it is in the convolution's kernel; where float goes on, TensorRT compiles none for both."""
    g = Net(18)
    x = g.op("Relu", g.conv(g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), "stem", 3))
    x = g.op(kind, g.conv(x, "each"), name="activation")
    x = g.conv(x, "last") if to == "codes" else x
    ir.save(g.model(y=g.op("GlobalAveragePool", x)), tmp_path / "model.onnx")
    build_int8(tmp_path, optimize="accuracy")
    layers = layers_in(tmp_path / "build.log")
    (layer,) = [one for one in layers if "each" in one.nodes]
    measured(f"{kind} to {to}: {layer.kind}, {layer.tactic}, {layer.outputs}, with {layer.nodes}")
    assert layer.kind == "CaskConvolution"
    assert (layer.outputs[0].dtype == "Int8") == (to == "codes")
    limits = calib8.Verify(min_sqnr_db=25)
    calib8.verify(tmp_path / "model.onnx", tmp_path / "int8.engine", tmp_path / "data.npz", limits)


def test_small_weights_of_large_numbers_keep_eight_bits(tmp_path: Path) -> None:
    """Scales of some 2^-17, subnormal in FP16: rounded to 2^-14, codes to 18 would leave 30 dB."""
    g = Net()
    weight = g.constant("small.w", g.random.normal(size=(CHANNELS, 3, 3, 3)) * 3.6e-4)
    x = g.op("Conv", g.input("x", ir.DataType.FLOAT, "batch", 3, SIZE, SIZE), weight, name="small", pads=[1, 1, 1, 1])
    ir.save(g.model(y=g.op("GlobalAveragePool", g.op("Relu", x))), tmp_path / "model.onnx")
    build_int8(tmp_path, np.random.default_rng(0).uniform(0, 255, size=(16, 3, SIZE, SIZE)))
    limits = calib8.Verify(min_sqnr_db=36)
    calib8.verify(tmp_path / "model.onnx", tmp_path / "int8.engine", tmp_path / "data.npz", limits)
