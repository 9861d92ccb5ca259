"""Weights behind a Transpose or Cast stay in their file as others do: nothing is computed before it is asked for."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, referring, save, weight_bytes
from calib8.graph.mapped import SMALLEST, Folded
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.runtime.ort import OrtRuntime
from calib8.testing import assert_models_equal, outputs_of

FLOAT = ir.DataType.FLOAT
WIDTH = 64
X = {"x": np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)}
STEPS = {
    "Transpose": [("Transpose", {})],
    "Transpose with perm": [("Transpose", {"perm": [1, 0]})],
    "Cast": [("Cast", {"to": 1})],
    "Identity": [("Identity", {})],
    "all in turn": [("Transpose", {}), ("Identity", {}), ("Cast", {"to": 1}), ("Transpose", {"perm": [1, 0]})],
}


def model_of(steps: str, width: int = WIDTH, layers: int = 1) -> ir.Model:
    """``x`` through MatMuls whose weights are behind ``STEPS``."""
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", width)
    dtype = np.float16 if any(op_type == "Cast" for op_type, _ in STEPS[steps]) else np.float32
    for layer in range(layers):
        array = np.random.default_rng(layer).normal(size=(width, width)).astype(dtype)
        weight = g.constant(f"w{layer}", array, dtype)
        for op_type, attributes in STEPS[steps]:
            weight = g.op(op_type, weight, **attributes)
        x = g.op("MatMul", x, weight)
    return g.model(y=x)


def folded_of(model: ir.Model) -> list[Folded]:
    found = [value.const_value for value in model.graph.initializers.values()]
    return [weight for weight in found if isinstance(weight, Folded)]


@pytest.mark.parametrize("steps", STEPS)
def test_the_model_computes_what_it_did(tmp_path: Path, steps: str) -> None:
    original = model_of(steps)
    prepared = prepare(load(save(original, tmp_path / "model.onnx")))
    (op,) = weighted_ops(prepared)
    (weight,) = folded_of(prepared)
    assert weight.numpy().flags.c_contiguous
    assert (op.weight_array().shape, weight.dtype, weight.nbytes) == ((WIDTH, WIDTH), FLOAT, 4 * WIDTH * WIDTH)
    assert weight_bytes(prepared, mapped=False) == 0
    expected = outputs_of(original, X)["y"]
    with OrtRuntime(prepared) as runtime:
        assert runtime.run(X)["y"].tobytes() == expected.tobytes()
    assert_models_equal(original, prepared, X, atol=0)  # as one file
    assert_models_equal(original, prepare(prepared), X, atol=0)


def test_nothing_is_on_the_heap(tmp_path: Path) -> None:
    path = save(model_of("Transpose", width=1024, layers=4), tmp_path / "model.onnx")  # 4 MiB each
    tracemalloc.start()
    try:
        prepared = prepare(load(path))
        content, folder = referring(prepared)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(folded_of(prepared)), folder) == (4, tmp_path)
    assert len(content) < 10_000
    assert peak < 3 << 20  # less than one of them; the hash of the file takes 2 MiB


def test_small_constants_are_computed_at_once(tmp_path: Path) -> None:
    width = 16
    assert 4 * width * width < SMALLEST
    prepared = prepare(load(save(model_of("Transpose", width=width), tmp_path / "model.onnx")))
    assert folded_of(prepared) == []


def test_a_file_that_was_replaced_is_not_referred_to(tmp_path: Path) -> None:
    path = save(model_of("Transpose"), tmp_path / "model.onnx")
    prepared = prepare(load(path))
    save(model_of("Identity"), path)
    assert referring(prepared)[1] is None
    with OrtRuntime(prepared) as runtime:
        np.testing.assert_array_equal(runtime.run(X)["y"], outputs_of(model_of("Transpose"), X)["y"])


def test_a_weight_that_a_branch_reads(tmp_path: Path) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", WIDTH)
    weight = g.op("Transpose", g.weight("w", WIDTH, WIDTH))
    positive = g.op("Greater", g.op("ReduceSum", x, keepdims=0), g.constant("zero", 0.0))
    branches = {}
    for name, op_type in (("then_branch", "MatMul"), ("else_branch", "Sub")):
        inner = ir.Value(name=name, type=ir.TensorType(FLOAT))
        node = ir.node(op_type, [x, weight], outputs=[inner], name=f"{name}_node")
        branches[name] = ir.Graph([], [inner], nodes=[node], name=name)
    model = g.model(y=g.op("If", positive, name="if", **branches))
    prepared = prepare(load(save(model, tmp_path / "model.onnx")))
    assert len(folded_of(prepared)) == 1
    for sign in (1, -1):
        x_fed = {"x": np.full((WIDTH, WIDTH), sign, np.float32)}
        with OrtRuntime(prepared) as runtime:
            np.testing.assert_array_equal(runtime.run(x_fed)["y"], outputs_of(model, x_fed)["y"])
