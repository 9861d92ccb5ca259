"""Shapes of tensors for a batch: inferred ones must be those that a run gives."""

import numpy as np
import onnx_ir as ir
import pytest
from speech import speech_model

from calib8.calibration.layout import Shapes
from calib8.data.inputs import Arrays
from calib8.errors import DataError
from calib8.graph.builder import GraphBuilder
from calib8.graph.shapes import Inference
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of, tiny_convnet, tiny_encoder, token_feeds


def names_of(model: ir.Model) -> list[str]:
    return [value.name or "" for node in model.graph for value in node.outputs]


def ran(model: ir.Model, names: list[str], arrays: Arrays) -> dict[str, tuple[int, ...]]:
    with Shapes(model, names) as shapes:
        shapes._inferred = None
        return shapes.of(arrays)


@pytest.mark.parametrize(
    ("model", "arrays"),
    [
        (tiny_encoder(), token_feeds(5, 2, 3)),
        (tiny_convnet(), {"image": np.zeros((2, 3, 8, 8), np.float32)}),
    ],
)
def test_inferred_shapes_are_those_of_a_run(model: ir.Model, arrays: Arrays) -> None:
    model = prepare(model)
    names = names_of(model)
    inferred = Inference(model).of({name: array.shape for name, array in arrays.items()})
    assert {name: inferred[name] for name in names} == ran(model, names, arrays)


def unknown_to_onnx() -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    gelu = ir.node("Gelu", [x], outputs=[ir.Value(name="gelu")], domain="com.microsoft")
    g.nodes.append(gelu)
    model = g.model(y=g.op("MatMul", gelu.outputs[0], g.weight("w", 4, 4)))
    model.opset_imports["com.microsoft"] = 1
    return prepare(model)


def test_a_model_that_onnx_does_not_know_is_run() -> None:
    model = unknown_to_onnx()
    arrays: Arrays = {"x": np.ones((3, 4), np.float32)}
    assert "gelu" not in Inference(model).of({"x": (3, 4)})
    with Shapes(model, ["gelu"]) as shapes:
        assert shapes.of(arrays) == {"gelu": (3, 4)}


def test_a_length_that_a_traced_model_does_not_take_is_refused() -> None:
    """ONNX would infer [2, 4, 6] for any input."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", "sequence", 6)
    traced = g.op("Reshape", x, g.constant("shape", [2, 4, 6], np.int64), name="traced")
    model = prepare(g.model(y=g.op("MatMul", traced, g.weight("w", 6, 6))))
    assert Inference(model).of({"x": (2, 4, 6)})["traced_out"] == (2, 4, 6)
    assert Inference(model).of({"x": (2, 3, 6)}) == {}
    with Shapes(model, ["traced_out"]) as shapes, pytest.raises(DataError, match="failed on inputs of shapes"):
        shapes.of({"x": np.zeros((2, 3, 6), np.float32)})


def test_sizes_that_depend_on_values_are_found_for_each_batch() -> None:
    model = prepare(speech_model())
    text = np.random.default_rng(0).normal(size=(12, 1, 5, 8)).astype(np.float32)
    expected = [outputs_of(model, {"text": one})["sound"].shape for one in text]
    assert len(set(expected)) > 3
    with Shapes(model, ["sound"], alone=True) as shapes:
        assert [shapes.of({"text": one})["sound"] for one in text] == expected
