"""Tiny models for the engine tests, in the form that calib8 emits, and with each silent trap built in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

K, N = 64, 128
SHAPES = ("x:1x64:8x64:32x64",)


class Graph:
    """Collects nodes and constants."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.random = np.random.default_rng(0)

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, kind: str, inputs: list[str], output: str, name: str | None = None, **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{output}_{kind}" if name is None else name, **attributes)
        )
        return output

    def cast(self, tensor: str, dtype: int) -> str:
        output = f"{tensor}_cast{dtype}"
        return output if any(output in n.output for n in self.nodes) else self.node("Cast", [tensor], output, to=dtype)

    def weight(self, name: str, shape: tuple[int, ...], axis: int = -1) -> str:
        """int8 constants -> DQ with fp32 scales along ``axis`` -> Cast fp16."""
        axis %= len(shape)
        w = self.random.standard_normal(shape).astype(np.float32)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scale = np.abs(w).max(others) / 127
        codes = np.rint(w / np.expand_dims(scale, others)).astype(np.int8)
        grid = [self.constant(f"{name}_scale", scale), self.constant(f"{name}_zp", np.zeros(shape[axis], np.int8))]
        dq = self.node("DequantizeLinear", [self.constant(f"{name}_codes", codes), *grid], f"{name}_dq", axis=axis)
        return self.cast(dq, TensorProto.FLOAT16)

    def pair(self, tensor: str, scale: Any = 0.03, zero_point: Any = 0, dtype: Any = np.int8) -> str:
        """Cast fp32 -> Q -> DQ -> Cast fp16. ``dtype`` None leaves the zero point away."""
        scale = self.constant(f"{tensor}_scale", np.asarray(scale, np.float32)) if not isinstance(scale, str) else scale
        grid = [scale]
        if dtype is not None:
            size = numpy_helper.to_array(self.constants[scale]).shape if scale in self.constants else ()
            grid.append(self.constant(f"{tensor}_zp", np.full(size, zero_point, dtype)))
        q = self.node("QuantizeLinear", [self.cast(tensor, TensorProto.FLOAT), *grid], f"{tensor}_q", axis=-1)
        return self.cast(self.node("DequantizeLinear", [q, *grid], f"{tensor}_dq", axis=-1), TensorProto.FLOAT16)

    def model(self, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], dtype: int = 10) -> onnx.ModelProto:
        def info(tensors: dict[str, list[Any]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, dtype, shape) for name, shape in tensors.items()]

        graph = helper.make_graph(self.nodes, "tiny", info(inputs), info(outputs), list(self.constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.checker.check_model(model)
        return model


@dataclass
class Trap:
    """How a one-GEMM model differs from the right form."""

    weight_axis: int = -1
    activation_scale: Any = 0.03
    zero_point: Any = 0
    zero_point_type: Any = np.int8
    quantised_weight: bool = True
    quantised_activation: bool = True
    runtime_scale: bool = False


def one_gemm(trap: Trap | None = None, opset: int = 17, name: str = "mm") -> onnx.ModelProto:
    """y = relu(x W + b), FP16 remainder."""
    trap, g = trap or Trap(), Graph(opset)
    x, scale = "x", trap.activation_scale
    if trap.runtime_scale:
        largest = g.node("ReduceMax", [g.node("Abs", [g.cast("x", TensorProto.FLOAT)], "ax")], "mx", keepdims=0)
        scale = g.node("Mul", [largest, g.constant("level", np.float32(1 / 127))], "computed_scale")
    if trap.quantised_activation:
        x = g.pair("x", scale, trap.zero_point, trap.zero_point_type)
    if trap.quantised_weight:
        w = g.weight("w", (K, N), trap.weight_axis)
    else:
        w = g.constant("w", g.random.standard_normal((K, N)).astype(np.float16))
    g.node("MatMul", [x, w], "h", name=name)
    g.node("Add", ["h", g.constant("b", np.full(N, 0.1, np.float16))], "a")
    g.node("Relu", ["a"], "y")
    return g.model({"x": ["rows", K]}, {"y": ["rows", N]})


def half_scales() -> onnx.ModelProto:
    """A GEMM with FP16 scales per channel, as other tools write them."""
    graph = Graph(opset=19)
    grid = [graph.constant("scale", np.full(128, 0.1, np.float16)), graph.constant("zp", np.zeros(128, np.int8))]
    w = graph.node("DequantizeLinear", [graph.constant("codes", np.ones((64, 128), np.int8)), *grid], "w", axis=1)
    graph.node("MatMul", [graph.pair("x"), w], "y", name="mm")
    return graph.model({"x": ["rows", 64]}, {"y": ["rows", 128]})


def mlp(depth: int = 3) -> onnx.ModelProto:
    """``depth`` GEMMs in a row, named mm0, mm1, …"""
    g, x = Graph(), "x"
    for i in range(depth):
        g.node("MatMul", [g.pair(x), g.weight(f"w{i}", (K, K))], f"h{i}", name=f"mm{i}")
        x = g.node("Relu", [f"h{i}"], f"x{i}")
    return g.model({"x": ["rows", K]}, {x: ["rows", K]})


def qkv() -> onnx.ModelProto:
    """Three GEMMs that read one tensor, which the builder merges, and a fourth that it cannot."""
    g = Graph()
    x = g.pair("x")
    for name in "qkv":
        g.node("MatMul", [x, g.weight(f"w_{name}", (K, K))], name, name=f"to_{name}")
    s = g.node("Add", [g.node("Mul", ["q", "k"], "qk"), "v"], "s")
    g.node("MatMul", [g.pair(s), g.weight("w_o", (K, K))], "y", name="to_out")
    return g.model({"x": ["rows", K]}, {"y": ["rows", K]})


def conv_net() -> onnx.ModelProto:
    """Conv, Relu, Conv."""
    g = Graph()
    g.node("Conv", [g.pair("x"), g.weight("w0", (32, 32, 3, 3), 0)], "h", name="conv0", pads=[1, 1, 1, 1])
    x = g.pair(g.node("Relu", ["h"], "r"))
    g.node("Conv", [x, g.weight("w1", (32, 32, 1, 1), 0)], "y", name="conv1")
    return g.model({"x": ["rows", 32, 16, 16]}, {"y": ["rows", 32, 16, 16]})


def gemm_transposed() -> onnx.ModelProto:
    """Gemm with transB and bias, its weight scales along axis 0."""
    g = Graph()
    b = g.constant("b", np.zeros(N, np.float16))
    g.node("Gemm", [g.pair("x"), g.weight("w", (N, K), 0), b], "y", name="gemm", transB=1)
    return g.model({"x": ["rows", K]}, {"y": ["rows", N]})


def attention(softmax: bool, values: bool) -> onnx.ModelProto:
    """softmax(x) v, with Q/DQ on the softmax output, on the values, or on both."""
    g = Graph()
    p = g.node("Softmax", ["x"], "p", axis=-1)
    g.node("MatMul", [g.pair(p, 1 / 127) if softmax else p, g.pair("v") if values else "v"], "y", name="pv")
    return g.model({"x": ["rows", 4, K, K], "v": ["rows", 4, K, K]}, {"y": ["rows", 4, K, K]})


def embedding() -> onnx.ModelProto:
    """DQ(int8 table) -> Gather -> INT8 GEMM, ids int64 [batch, sequence]."""
    g = Graph()
    g.node("Gather", [g.weight("table", (100, K), 0), "ids"], "e")
    g.node("MatMul", [g.pair("e"), g.weight("w", (K, K))], "y", name="mm")
    model = g.model({"ids": ["batch", "sequence"]}, {"y": ["batch", "sequence", K]})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def masked_embedding() -> onnx.ModelProto:
    """Two int64 inputs [batch, sequence] like an encoder's, and a table of 100 rows."""
    g = Graph()
    mask = g.node("Unsqueeze", [g.cast("mask", TensorProto.FLOAT16), g.constant("last", [2])], "wide")
    g.node("Mul", [g.node("Gather", [g.weight("table", (100, K), 0), "input_ids"], "e"), mask], "y")
    inputs = {"input_ids": ["batch", "sequence"], "mask": ["batch", "sequence"]}
    model = g.model(inputs, {"y": ["batch", "sequence", K]})
    for entry in model.graph.input:
        entry.type.tensor_type.elem_type = TensorProto.INT64
    return model


def fp32_gemm() -> onnx.ModelProto:
    """A GEMM that nobody quantised, in FP32: refused for Turing."""
    g = Graph()
    g.node("MatMul", ["x", g.constant("w", np.ones((K, N), np.float32))], "y", name="plain")
    return g.model({"x": ["rows", K]}, {"y": ["rows", N]}, TensorProto.FLOAT)
