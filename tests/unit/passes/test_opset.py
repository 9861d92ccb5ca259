import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.errors import ModelError
from calib8.graph.builder import GraphBuilder
from calib8.passes.opset import NEWEST, OLDEST, REDUCTIONS, STAY_BELOW, raise_opset, require_opset
from calib8.passes.prepare import prepare
from calib8.testing import outputs_of


def test_reductions_take_their_axes_as_an_input_and_compute_the_same() -> None:
    g = GraphBuilder(opset=13)
    x = g.input("x", ir.DataType.FLOAT, 4, 6)
    model = g.model(
        mean=g.op("ReduceMean", x, axes=[1], keepdims=0),
        all=g.op("ReduceMax", x, keepdims=0),
        total=g.op("ReduceSum", x, g.constant("axes", [0], np.int64), keepdims=0),
    )
    feeds = {"x": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}
    before = outputs_of(model.clone(), feeds)
    raised = require_opset(model, 20)
    onnx.checker.check_model(ir.to_proto(raised), full_check=True)
    assert raised.opset_imports[""] == 20
    after = outputs_of(raised, feeds)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    np.testing.assert_allclose(after["mean"], feeds["x"].mean(axis=1), rtol=1e-6)


def reduced(kind: str, opset: int = 13, **attributes: object) -> ir.Model:
    g = GraphBuilder(opset)
    x = g.input("x", ir.DataType.FLOAT, "batch", 12)
    return prepare(g.model(y=g.op(kind, x, **attributes)))


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax", "ReduceL2"])
def test_reductions_take_their_axes_along(kind: str) -> None:
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)}
    for attributes in ({"axes": [-1], "keepdims": 0}, {"keepdims": 1}):
        model = reduced(kind, **attributes)
        before = outputs_of(model, feeds)["y"]
        assert raise_opset(model, 20)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        np.testing.assert_array_equal(outputs_of(model, feeds)["y"], before)


def test_a_split_says_how() -> None:
    g = GraphBuilder(17)
    x = g.input("x", ir.DataType.FLOAT, "batch", 12)
    told = ir.node("Split", [x, g.constant("sizes", [6, 6], np.int64)], {"axis": 1}, num_outputs=2, name="split")
    g.nodes.append(told)
    for value, name in zip(told.outputs, ("a", "b"), strict=True):
        value.name = name
    model = prepare(g.model(a=told.outputs[0], b=told.outputs[1]))
    assert raise_opset(model, 20)


def test_a_split_without_sizes_says_into_how_many_parts() -> None:
    g = GraphBuilder(opset=13)
    x = g.input("x", ir.DataType.FLOAT, 4, 6)
    model = g.model(y=g.op("Identity", x))
    split = ir.Node("", "Split", [x], [ir.AttrInt64("axis", 1)], num_outputs=3, name="split")
    for number, part in enumerate(split.outputs):
        part.name, part.type, part.shape = f"part{number}", ir.TensorType(ir.DataType.FLOAT), ir.Shape([4, 2])
    model.graph.append(split)
    model.graph.outputs.append(split.outputs[1])
    assert raise_opset(model, 20)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert split.attributes.get_int("num_outputs") == 3
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(4, 6)}
    np.testing.assert_array_equal(outputs_of(model, feeds)["part1"], feeds["x"][:, 2:4])


def test_roi_align_keeps_its_half_pixel() -> None:
    g = GraphBuilder(opset=13)
    x, rois = g.input("x", ir.DataType.FLOAT, 1, 1, 8, 8), g.constant("rois", [[1.0, 1, 5, 6]])
    model = g.model(y=g.op("RoiAlign", x, rois, g.constant("batch", [0], np.int64), output_height=2, output_width=2))
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)}
    before = outputs_of(model.clone(), feeds)["y"]
    np.testing.assert_array_equal(outputs_of(require_opset(model, 20), feeds)["y"], before)
    model.graph[0].attributes.pop("coordinate_transformation_mode")
    assert np.abs(outputs_of(model, feeds)["y"] - before).max() > 0.01  # or there was nothing to do


def test_a_newer_model_is_left_alone() -> None:
    g = GraphBuilder(opset=21)
    model = g.model(y=g.op("Relu", g.input("x", ir.DataType.FLOAT, 4)))
    assert raise_opset(model, 20)
    assert model.opset_imports[""] == 21


def test_what_changed_its_meaning_keeps_the_opset() -> None:
    g = GraphBuilder(17)
    x = g.input("x", ir.DataType.FLOAT, 1, 1, 4, 4)
    model = g.model(y=g.op("GridSample", x, g.constant("grid", np.zeros((1, 2, 2, 2)))))
    assert not raise_opset(model, 20)
    assert model.opset_imports[""] == 17
    with pytest.raises(
        ModelError, match=r"has opset 17 and GridSample \(.*\), which means something else from opset 20"
    ):
        require_opset(model, 20)
    feeds = {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)}
    before = outputs_of(model.clone(), feeds)["y"]
    np.testing.assert_array_equal(outputs_of(require_opset(model, 19), feeds)["y"], before)


def test_an_operator_that_onnx_does_not_know_keeps_the_opset() -> None:
    g = GraphBuilder(17)
    model = g.model(y=g.op("Relu", g.input("x", ir.DataType.FLOAT, 4)))
    model.graph[0].op_type = "NoSuchOp"
    with pytest.raises(ModelError, match=r"NoSuchOp \(.*\), which ONNX does not know, and needs opset 19\. Export"):
        require_opset(model, 19)
    model.graph[0].domain = "own"
    assert raise_opset(model, 19)


def changed() -> list[tuple[onnx.defs.OpSchema, onnx.defs.OpSchema]]:
    """Every operator that has one form at the oldest opset and another at the newest."""
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    pairs = []
    for name in sorted(names):
        try:
            old, new = onnx.defs.get_schema(name, OLDEST), onnx.defs.get_schema(name, NEWEST)
        except onnx.defs.SchemaError:  # newer, or of no opset that there is
            continue
        if old.since_version != new.since_version and not new.deprecated and name not in STAY_BELOW:
            pairs.append((old, new))
    return pairs


@pytest.mark.parametrize(("old", "new"), changed(), ids=lambda schema: f"{schema.name}-{schema.since_version}")
def test_whatever_else_changed_means_what_it_meant(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> None:
    """A node of the old form is one of the new: attributes are there with their defaults, inputs in their places."""
    for name, attribute in old.attributes.items():
        if name == "axes" and old.name in REDUCTIONS:
            continue
        assert name in new.attributes
        assert new.attributes[name].type == attribute.type
        assert new.attributes[name].default_value == attribute.default_value
    assert not [name for name, one in new.attributes.items() if one.required and name not in old.attributes]
    kept = [parameter.name for parameter in new.inputs][: len(old.inputs)]
    assert len(kept) == len(old.inputs)
    assert new.min_input <= old.min_input
