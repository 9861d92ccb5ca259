"""Models as skl2onnx writes them: what stands around their products becomes ONNX's own, maps become matrices."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import calib8
from calib8.errors import ModelError
from calib8.graph.io import load
from calib8.graph.left_out import require_weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of

ML = "ai.onnx.ml"


def classifier(path: Path, *, zip_map: bool = False, scale: bool = True) -> Path:
    """What skl2onnx makes of a scaler and an MLP classifier of three classes, with a layer."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(4, 3)).astype(np.float32),
        "classes": np.array([10, 20, 30]),
        "flat": np.array([-1]),
    }
    given = {"offset": [1.0, 2.0, 3.0, 4.0], "scale": [0.5, 1.0, 2.0, 4.0]} if scale else {}
    nodes = [
        helper.make_node("Scaler", ["x"], ["scaled"], name="scaler", domain=ML, **given),
        helper.make_node("MatMul", ["scaled", "w"], ["h"], name="op"),
        helper.make_node("Softmax", ["h"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["h"], ["best"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "best"], ["taken"], name="extract", domain=ML),
        helper.make_node("Reshape", ["taken", "flat"], ["label"]),
    ]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, [None])]
    last = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])
    if zip_map:
        nodes.append(
            helper.make_node("ZipMap", ["probabilities"], ["maps"], domain=ML, classlabels_int64s=[10, 20, 30])
        )
        maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        last = helper.make_value_info("maps", helper.make_sequence_type_proto(maps))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [*outputs, last],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_classifier_is_of_onnxs_own_operators(tmp_path: Path) -> None:
    path = classifier(tmp_path / "m.onnx")
    prepared = prepare(load(path))
    assert {node.domain for node in prepared.graph} == {""}
    x = np.random.default_rng(1).normal(size=(40, 4), scale=5).astype(np.float32)
    label, probabilities = onnxruntime.InferenceSession(path).run(None, {"x": x})
    got = outputs_of(prepared, {"x": x})
    assert len(set(label.tolist())) > 1
    assert got["label"].tolist() == label.tolist()
    np.testing.assert_allclose(got["probabilities"], probabilities, atol=1e-6)


@pytest.mark.parametrize(("scale", "expected"), [(True, [1, 3, 2, 4]), (False, [3, 5, 4, 5])])
def test_the_scaler_subtracts_and_multiplies(tmp_path: Path, scale: bool, expected: list[float]) -> None:
    """By hand: (3 - 1) / 2 = 1, 5 - 2 = 3, (4 - 3) * 2 = 2, (5 - 4) * 4 = 4; without attributes nothing is done."""
    prepared = prepare(load(classifier(tmp_path / "m.onnx", scale=scale)))
    [product] = [node for node in prepared.graph if node.name == "op"]
    scaled = product.inputs[0]
    prepared.graph.outputs.append(scaled)
    assert outputs_of(prepared, {"x": np.array([[3, 5, 4, 5]], np.float32)})["scaled"].tolist() == [expected]


def test_maps_become_the_matrix_that_they_are_made_of(tmp_path: Path) -> None:
    path = classifier(tmp_path / "m.onnx", zip_map=True)
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    rows = onnxruntime.InferenceSession(path).run(["maps"], {"x": x})[0]
    with calib8.open(path) as runtime:
        got = runtime(x=x)["maps"]
    np.testing.assert_allclose(got, [[row[key] for key in (10, 20, 30)] for row in rows], atol=1e-6)


def test_trees_are_named_where_there_is_nothing_else(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], name="line", domain=ML, coefficients=[1.0, 2.0], intercepts=[0.0]
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n]) for name, n in (("x", 2), ("y", 1))]
    graph = helper.make_graph([node], "line", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(
        ModelError, match="has 1 LinearRegressor, as 'line': an operator of ai.onnx.ml, which is not one of ONNX's own"
    ):
        require_weighted_ops(prepare(load(tmp_path / "m.onnx")))
