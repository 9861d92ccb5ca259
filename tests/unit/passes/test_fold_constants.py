"""Weights that exporters leave behind other ops are found, and are the numbers that they were."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, save
from calib8.graph.mapped import MappedTensor
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, outputs_of

FLOAT = ir.DataType.FLOAT
X = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
W = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)


def model_of(weight: Callable[[GraphBuilder], ir.Value]) -> ir.Model:
    g = GraphBuilder()
    return g.model(y=g.op("MatMul", g.input("x", FLOAT, "batch", 4), weight(g), name="mm"))


FORMS: dict[str, Callable[[GraphBuilder], ir.Value]] = {
    "Reshape": lambda g: g.op("Reshape", g.constant("w", W.reshape(-1)), g.constant("to", [4, 6], np.int64)),
    "Squeeze": lambda g: g.op("Squeeze", g.constant("w", W[None]), g.constant("axes", [0], np.int64)),
    "Mul": lambda g: g.op("Mul", g.constant("w", W), g.constant("g", np.linspace(0.5, 2, 6))),
    "Concat": lambda g: g.op("Concat", g.constant("a", W[:, :2]), g.constant("b", W[:, 2:]), axis=1),
    "Slice": lambda g: g.op("Slice", g.constant("w", np.tile(W, 2)), g.constant("from", [6], np.int64),
                            g.constant("to", [12], np.int64), g.constant("along", [1], np.int64)),
    "Cast and Transpose": lambda g: g.op("Transpose", g.op("Cast", g.constant("w", W.T, np.float16), to=int(FLOAT))),
    "weight norm": lambda g: g.op("Mul", g.constant("g", np.ones(6)), g.op("Div", g.constant("v", W), g.op(
        "ReduceL2", g.constant("v2", W), axes=[0]))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_behind_constants_is_found(form: str) -> None:
    original = model_of(FORMS[form])
    original.opset_imports[""] = 17
    expected = outputs_of(original, X)["y"]
    assert weighted_ops(original) == []
    prepared = prepare(original)
    assert [op.name for op in weighted_ops(prepared)] == ["mm"]
    assert [node.op_type for node in prepared.graph] == ["MatMul"]
    np.testing.assert_allclose(outputs_of(prepared, X)["y"], expected, atol=1e-6)


@pytest.mark.parametrize("stored", [np.int8, np.float16])
def test_a_weight_in_a_file_that_is_stored_in_fewer_bytes_is_found(stored: type, tmp_path: Path) -> None:
    codes, scale = np.random.default_rng(2).integers(-127, 128, (96, 256)), np.linspace(0.01, 0.02, 256)
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 96)
    weight = g.op("Mul", g.op("Cast", g.constant("w", codes, stored), to=int(FLOAT)), g.constant("s", scale))
    loaded = load(save(g.model(y=g.op("MatMul", x, weight, name="mm")), tmp_path / "model.onnx"))
    assert isinstance(loaded.graph.initializers["w"].const_value, MappedTensor)
    prepared = prepare(loaded)
    assert [node.op_type for node in prepared.graph] == ["MatMul"]
    assert list(prepared.graph.initializers) == [weight.name]
    expected = codes.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(weighted_ops(prepared)[0].weight_array(), expected)


def test_the_parts_of_a_split_are_weights() -> None:
    g = GraphBuilder()
    x, parts = g.input("x", FLOAT, "batch", 4), [ir.Value(name=f"part.{n}") for n in range(2)]
    g.nodes.append(ir.node("Split", [g.constant("w", W)], {"axis": 1}, outputs=parts))
    model = g.model(a=g.op("MatMul", x, parts[0], name="a"), b=g.op("MatMul", x, parts[1], name="b"))
    prepared = prepare(model.clone())
    assert_models_equal(model, prepared, X, atol=0)
    assert [op.weight_array().shape for op in weighted_ops(prepared)] == [(4, 3), (4, 3)]


def test_what_grows_and_what_holds_codes_stays() -> None:
    g = GraphBuilder()
    wide = g.op("Expand", g.constant("one", np.ones((1, 4, 1))), g.constant("to", [1, 4, 65536], np.int64))
    codes = g.op("DequantizeLinear", g.constant("codes", np.round(W), np.int8), g.constant("scale", 0.1))
    x = g.input("x", FLOAT, "batch", 2, 4)
    prepared = prepare(g.model(y=g.op("MatMul", x, wide), z=g.op("MatMul", x, codes)))
    assert {node.op_type for node in prepared.graph} == {"Expand", "DequantizeLinear", "MatMul"}


def test_a_matrix_with_axes_of_one_in_front_is_a_matrix() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 5, 4)
    product = g.op("MatMul", x, g.constant("w", W[None]), name="mm")
    flat = g.op("MatMul", g.input("flat", FLOAT, 5, 4), g.constant("v", W[None]), name="adds an axis")
    both = g.model(y=product, z=flat)
    prepared = prepare(both.clone())
    assert [op.name for op in weighted_ops(prepared)] == ["mm"]
    feeds = {"x": np.ones((2, 5, 4), np.float32), "flat": np.ones((5, 4), np.float32)}
    assert_models_equal(both, prepared, feeds, atol=0)
