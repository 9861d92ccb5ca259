"""What TensorRT-RTX refuses, provoked for real: calib8's error names the node, where TensorRT does, and a remedy."""

from pathlib import Path

import engine_models as tiny
import numpy as np
import onnx
import pytest
from engine_models import Trap
from onnx import TensorProto, helper, numpy_helper

from calib8.engine.failures import build_error
from calib8.engine.process import run_worker
from calib8.progress import Quiet

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


def one_node(kind, inputs, constants=(), types=(FLOAT, FLOAT), outputs=("y",), opset=17, domain=""):
    node = helper.make_node(kind, [*inputs, *(name for name, _ in constants)], outputs, name="thenode", domain=domain)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, types[0], shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(outputs[0], types[1], None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def int32_bias():
    g = tiny.Graph()
    bias = g.node("DequantizeLinear", [g.constant("b", np.ones(128, np.int32)), g.constant("s", np.float32(1))], "bias")
    g.node("MatMul", [g.pair("x"), g.weight("w", (64, 128))], "h", name="mm")
    g.node("Add", ["h", g.cast(bias, TensorProto.FLOAT16)], "y")
    return g.model({"x": ["rows", 64]}, {"y": ["rows", 128]})


def choice_in_choice():
    """x @ w, and of that Tanh, Neg or Abs, by the number of rows."""

    def branch(name, *nodes):
        value = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)
        return helper.make_graph(nodes, name, [], [value])

    def choice(name, rows, result, then, otherwise):
        nodes = [helper.make_node("Equal", ["count", rows], [f"{name}_is"])]
        options = {"then_branch": branch(f"{name}_yes", *then), "else_branch": branch(f"{name}_no", otherwise)}
        return [*nodes, helper.make_node("If", [f"{name}_is"], [result], name=name, **options)]

    kinds = {kind: helper.make_node(kind, ["h"], [kind]) for kind in ("Tanh", "Neg", "Abs")}
    inner = choice("inner", "two", "chosen", [kinds["Tanh"]], kinds["Neg"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["count"]),
        *choice("outer", "one", "y", inner, kinds["Abs"]),
    ]
    weights = {"w": np.ones((64, 64), np.float32), "first": np.int64(0), "one": np.int64(1), "two": np.int64(2)}
    ends = [helper.make_tensor_value_info(name, FLOAT, ["rows", 64]) for name in "xy"]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "choices", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


X = {"x": ["rows", 64]}
CODES = ("w", np.ones((64, 8), np.int8))
SCALE, ZERO = np.float32(0.1), np.int8(0)
QLINEAR = [("a", SCALE), ("b", ZERO), CODES, ("c", SCALE), ("d", ZERO), ("e", SCALE), ("f", ZERO)]
QKV = {name: ["rows", 4, 16, 64] for name in "qkv"}

REFUSALS = {
    "FP32 on Turing": (tiny.fp32_gemm(), "sm75", "plain", "quantise with the FP16 remainder; where that is so"),
    "FP32 on Turing among others": (tiny.fp32_gemm(), "sm75+sm86", "plain", "FP16 remainder; where that is so"),
    "bfloat16 on Turing": (one_node("Relu", X, types=(16, 16)), "sm75", None, "convert the model to FP16, or drop"),
    "unknown operator": (one_node("Quux", X, domain="com.acme"), "sm86", "thenode", "lacks this operator: export"),
    "operator without importer": (one_node("Det", {"x": ["rows", 4, 4]}), "sm86", "thenode", "lacks this operator"),
    "dynamic quantisation": (
        one_node("DynamicQuantizeLinear", X, outputs=("y", "s", "z"), types=(FLOAT, TensorProto.UINT8)),
        *("sm86", "thenode", "that is ONNX Runtime's quantisation: start from the float model"),
    ),
    "integer product": (
        one_node("MatMulInteger", X, [CODES], types=(INT8, TensorProto.INT32)),
        *("sm86", "thenode", "that is ONNX Runtime's quantisation"),
    ),
    "quantised product": (
        one_node("QLinearMatMul", X, QLINEAR, types=(INT8, INT8)),
        *("sm86", "thenode", "that is ONNX Runtime's quantisation"),
    ),
    "attention in FP32": (one_node("Attention", QKV, opset=23), "sm86", None, "attention in one op runs in FP16 only"),
    "mixed types": (
        one_node("Add", X, [("h", np.ones(64, np.float16))]),
        "sm86",
        "thenode",
        "put a Cast where float16",
    ),
    "text input": (one_node("Identity", X, types=(8, 8)), "sm86", None, "use float or int64 inputs"),
    "zero point": (tiny.one_gemm(Trap(zero_point=3)), "sm86", "x_q_QuantizeLinear", "quantise symmetrically"),
    "scale 0": (tiny.one_gemm(Trap(activation_scale=0.0)), "sm86", "x_q_QuantizeLinear", "calibrate again, on data"),
    "scale NaN": (tiny.one_gemm(Trap(activation_scale=np.nan)), "sm86", "x_q_QuantizeLinear", "scales must be > 0"),
    "choice in a choice": (choice_in_choice(), "sm86", None, "has such an error where an If stands in a branch of"),
    "int32 bias": (int32_bias(), "sm86", "bias_DequantizeLinear", "leave biases in float"),
}


def built(model: onnx.ModelProto, target: str, folder: Path, **options: object):
    """Past calib8's own checks, which find some of these first."""
    onnx.save(model, folder / "m.onnx")
    shapes = {
        value.name: [[size.dim_value or rows for size in value.type.tensor_type.shape.dim] for rows in (1, 8, 32)]
        for value in model.graph.input
    }
    request = {
        **{"family": "rtx", "target": target, "stage": "build", "profiles": [shapes], "options": options},
        **{"timings": None, "calibration": None, "model": str(folder / "m.onnx"), "engine": str(folder / "e")},
    }
    return run_worker(request, Quiet())


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_node_and_remedy(name, tmp_path):
    model, target, node, remedy = REFUSALS[name]
    outcome = built(model, target, tmp_path)
    assert outcome.built is None
    text = str(build_error(outcome, tmp_path / "m.onnx", target, "TensorRT-RTX"))
    assert text.startswith(f"TensorRT-RTX did not build m.onnx for {target} (")
    assert f"Remedy: {remedy}" in text or remedy in text.partition("Remedy: ")[2]
    assert (f"ONNX node: {node}." in text) if node else ("ONNX node:" not in text)
    for noise in ("catchCudaError", "Begin node", "While parsing", ": false"):
        assert noise not in text


def test_an_impossible_workspace_is_named(tmp_path):
    outcome = built(tiny.one_gemm(), "sm86", tmp_path, workspace_mib=1)
    text = str(build_error(outcome, tmp_path / "m.onnx", "sm86", "TensorRT-RTX"))
    assert "within workspace limit" in text
    assert text.endswith("Remedy: raise the workspace limit, or give none.")


def test_fp16_attention_is_not_refused(tmp_path):
    """So that the remedy for FP32 attention is one."""
    model = one_node("Attention", QKV, opset=23, types=(TensorProto.FLOAT16, TensorProto.FLOAT16))
    assert built(model, "sm86", tmp_path).built is not None
