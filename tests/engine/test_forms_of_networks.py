"""The form that TensorRT parses computes what its INT8 model does, whatever follows a convolution."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

import calib8
from calib8.engine.parsed_form import to_parse
from calib8.errors import ConfigError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, save
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

CHANNELS = 8
FEEDS = {"x": np.random.default_rng(0).normal(size=(4, CHANNELS, 6, 6)).astype(np.float32)}
ACTIVATIONS = ("none", "Relu", "SiLU", "swish", "HardSwish", "LeakyRelu", "Sigmoid", "Gelu")
BLOCKS = st.one_of(
    st.tuples(st.just("Conv"), st.sampled_from([1, 2, CHANNELS]), st.sampled_from(ACTIVATIONS), st.integers(0, 2)),
    st.tuples(st.sampled_from(["Add", "Concat", "MaxPool", "squeeze"]), st.just(1), st.just("none"), st.integers(0, 2)),
)


class Net(GraphBuilder):
    """Of blocks that read one of the last three."""

    def conv(self, x: ir.Value, name: str, size: int = 1, inputs: int = CHANNELS, group: int = 1) -> ir.Value:
        weights = self.weight(f"{name}.w", CHANNELS, inputs // group, size, size), self.weight(f"{name}.b", CHANNELS)
        return self.op("Conv", x, *weights, name=name, pads=[size // 2] * 4, group=group)

    def active(self, x: ir.Value, kind: str) -> ir.Value:
        if kind == "swish":
            three, none, six = (self.constant(f"{x.name}.{number}", np.float32(number)) for number in (3, 0, 6))
            return self.op("Div", self.op("Mul", x, self.op("Clip", self.op("Add", x, three), none, six)), six)
        if kind == "SiLU":
            return self.op("Mul", x, self.op("Sigmoid", x))
        return x if kind == "none" else self.op(kind, x)

    def block(self, kind: str, group: int, activation: str, x: ir.Value, other: ir.Value, name: str) -> ir.Value:
        if kind == "Conv":
            return self.active(self.conv(x, name, 3, group=group), activation)
        if kind == "Add":
            return self.op("Add", x, other)
        if kind == "Concat":
            return self.conv(self.op("Concat", x, other, axis=1), name, inputs=2 * CHANNELS)
        if kind == "MaxPool":
            return self.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        gate = self.op("HardSigmoid", self.conv(self.op("GlobalAveragePool", x), name))
        return self.op("Mul", x, gate)


def network(blocks: list[tuple[str, int, str, int]]) -> ir.Model:
    g = Net(20)
    values = [g.conv(g.input("x", ir.DataType.FLOAT, "batch", CHANNELS, 6, 6), "first")]
    for number, (kind, group, activation, back) in enumerate(blocks):
        other = values[max(0, len(values) - 1 - back)]
        values.append(g.block(kind, group, activation, values[-1], other, f"block{number}"))
    return prepare(g.model(y=g.conv(values[-1], "last"), z=g.op("Neg", values[len(values) // 2])))


@settings(max_examples=20)
@given(
    st.lists(BLOCKS, min_size=1, max_size=6),
    st.sampled_from(["latency", "accuracy"]),
    st.sampled_from(["fp16", "fp32"]),
)
def test_it_computes_the_same(blocks, optimize: str, remainder: str) -> None:
    model = network(blocks)
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize=optimize, remainder=remainder)
    try:
        int8 = calib8.quantize(model, calib8.calibrate(model, [FEEDS]), config)
    except ConfigError:  # nothing is left that INT8 makes faster
        return
    with TemporaryDirectory() as folder:
        path = save(int8, Path(folder) / "model.int8.onnx")
        with to_parse(path, "int8", "tensorrt", Path(folder) / "x.engine") as parsed:
            found, expected = outputs_of(load(parsed), FEEDS), outputs_of(load(path), FEEDS)
    for name, array in expected.items():  # a code may be the next one, where FP16 is not rounded to
        assert np.square(found[name] - array).sum() < 1e-3 * np.square(array).sum()
