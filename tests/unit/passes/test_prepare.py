import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.errors import ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

FLOAT = ir.DataType.FLOAT
X = {"x": np.float32([[1, -2, 3, 4]])}


def clone(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


@pytest.mark.parametrize(
    ("model", "feeds"),
    [
        (tiny_mlp(), X),
        (tiny_encoder(), token_feeds(3, 7)),
        (tiny_convnet(), {"image": np.ones((2, 3, 8, 8), np.float32)}),
    ],
)
def test_same_numbers(model: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    prepared = prepare(clone(model))
    assert_models_equal(model, prepared, feeds, atol=0)
    onnx.checker.check_model(ir.to_proto(prepared), full_check=True)


def test_preparing_twice_changes_nothing() -> None:
    once = prepare(tiny_encoder())
    first = ir.to_proto(once).SerializeToString()
    assert ir.to_proto(prepare(once)).SerializeToString() == first


def with_weight_behind(op_type: str, array: np.ndarray, **attributes: object) -> ir.Model:
    """``x`` -> MatMul with ``op_type(constant)``."""
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    weight = g.op(op_type, g.constant("w", array, array.dtype), name="folded", **attributes)
    return g.model(y=g.op("MatMul", x, weight, name="mm"))


@pytest.mark.parametrize(
    ("op_type", "array", "attributes"),
    [
        ("Transpose", np.arange(8, dtype=np.float32).reshape(2, 4), {}),
        ("Transpose", np.arange(8, dtype=np.float32).reshape(2, 4), {"perm": [1, 0]}),
        ("Cast", np.arange(8, dtype=np.float16).reshape(4, 2), {"to": 1}),
        ("Cast", np.arange(8, dtype=np.int64).reshape(4, 2), {"to": 1}),
        ("Identity", np.arange(8, dtype=np.float32).reshape(4, 2), {}),
    ],
)
def test_weights_behind_trivial_ops_are_found(op_type: str, array: np.ndarray, attributes: dict) -> None:
    original = with_weight_behind(op_type, array, **attributes)
    assert weighted_ops(original) == []
    prepared = prepare(clone(original))
    (op,) = weighted_ops(prepared)
    assert (op.channels, [node.op_type for node in prepared.graph]) == (2, ["MatMul"])
    assert_models_equal(original, prepared, X, atol=0)


@pytest.mark.parametrize("index", [1, [1]], ids=["shape ()", "shape (1,)"])
@pytest.mark.parametrize(
    ("op_type", "dtype", "attributes"),
    [("Identity", np.int64, {}), ("Cast", np.int32, {"to": 7}), ("Transpose", np.int64, {})],
)
def test_a_folded_number_keeps_its_shape(index: int | list[int], op_type: str, dtype: type, attributes: dict) -> None:
    """A Gather by an index without axes drops the axis, by one of shape (1,) it keeps it."""
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 3, 4)
    chosen = g.op("Gather", x, g.op(op_type, g.constant("index", index, dtype), **attributes), axis=1)
    model = g.model(y=g.op("MatMul", chosen, g.weight("w", 4, 2)))
    prepared = prepare(clone(model))
    assert [node.op_type for node in prepared.graph] == ["Gather", "MatMul"]
    assert_models_equal(model, prepared, {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}, atol=0)


def test_a_folded_limit_of_a_range_stays_a_number() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    limit = g.op("Cast", g.constant("limit", 4, np.int32), to=7)
    steps = g.op("Range", g.constant("start", 0, np.int64), limit, g.constant("step", 1, np.int64))
    model = g.model(y=g.op("Add", x, g.op("Cast", steps, to=1)))
    assert_models_equal(model, prepare(clone(model)), X, atol=0)


def test_constant_nodes_become_initializers() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    weight = g.op("Constant", value=ir.tensor(np.ones((4, 2), np.float32)))
    prepared = prepare(g.model(y=g.op("MatMul", x, weight)))
    assert [node.op_type for node in prepared.graph] == ["MatMul"]
    assert len(weighted_ops(prepared)) == 1


def test_nodes_get_unique_names() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    for _ in range(4):
        x = g.op("Relu", x)
    model = g.model(y=x)
    for node, name in zip(model.graph, ("same", "same", "same_1", None), strict=True):
        node.name = name
    assert [node.name for node in prepare(model).graph] == ["same", "same_1", "same_1_1", "Relu_3"]


def test_old_opset_is_raised() -> None:
    g = GraphBuilder(opset=11)
    x = g.input("x", FLOAT, "batch", 4)
    model = g.model(y=g.op("Softmax", g.op("MatMul", x, g.weight("w", 4, 2)), axis=1))
    model.metadata_props["calib8.source_sha256"] = "kept"
    prepared = prepare(clone(model))
    assert prepared.opset_imports[""] == 13
    assert prepared.metadata_props["calib8.source_sha256"] == "kept"
    assert_models_equal(model, prepared, X, atol=1e-6)


def test_opset_that_cannot_be_raised() -> None:
    g = GraphBuilder(opset=9)
    x = g.input("x", FLOAT, "batch", 4)
    g.op("Upsample", x, g.constant("scales", [1.0, 2.0]), name="up")
    model = ir.Model(ir.Graph([x], list(g.nodes[0].outputs), nodes=g.nodes, initializers=g.constants, name="g",
                              opset_imports={"": 9}), ir_version=5)  # fmt: skip
    model.graph[0].op_type = "NoSuchOp"
    with pytest.raises(ModelError, match="the model has opset 9 and could not be raised to 13.* Export it again"):
        prepare(model)


def test_initializers_are_no_inputs() -> None:
    model = tiny_mlp()
    for value in list(model.graph.initializers.values()):
        model.graph.inputs.append(value)
    prepared = prepare(clone(model))
    assert [value.name for value in prepared.graph.inputs] == ["x"]
    assert_models_equal(tiny_mlp(), prepared, X, atol=0)


def test_types_are_inferred() -> None:
    model = tiny_encoder()
    for node in model.graph:
        node.outputs[0].type = node.outputs[0].shape = None
    assert all(node.outputs[0].dtype is not None for node in prepare(model).graph)


def test_identities_go_but_those_in_a_branch_stay() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    hidden = g.op("Identity", g.op("Relu", x, name="relu"), name="dropped")
    positive = g.op("Greater", g.op("ReduceSum", hidden, keepdims=0), g.constant("zero", 0.0))
    branches = {}
    for name, op_type in (("then_branch", "Neg"), ("else_branch", "Identity")):
        inner = ir.Value(name=name, type=ir.TensorType(FLOAT), shape=ir.Shape(["batch", 4]))
        node = ir.node(op_type, [hidden], outputs=[inner], name=f"{name}_node")
        branches[name] = ir.Graph([], [inner], nodes=[node], name=name)
    model = g.model(y=g.op("If", positive, name="if", **branches))
    prepared = prepare(clone(model))
    assert "Identity" not in [node.op_type for node in prepared.graph]
    onnx.checker.check_model(ir.to_proto(prepared), full_check=True)
    for x_fed in ([[1, -2, 3, 4]], [[-1, -2, -3, -4]]):
        assert_models_equal(model, prepared, {"x": np.float32(x_fed)}, atol=0)


def test_casts_to_the_type_that_is_there_go() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    hidden = g.op("Cast", g.op("Relu", g.op("Cast", x, to=1), name="relu"), to=1)
    whole = g.op("Cast", g.op("Cast", hidden, to=7), to=7)
    model = g.model(y=g.op("Cast", g.op("Add", hidden, g.op("Cast", whole, to=1)), to=1))
    prepared = prepare(clone(model))
    assert [(n.op_type, n.attributes.get_int("to", 0)) for n in prepared.graph] == [
        ("Relu", 0), ("Cast", 7), ("Cast", 1), ("Add", 0), ("Cast", 1),
    ]  # fmt: skip
    assert prepared.graph.outputs[0].name == "y"
    assert_models_equal(model, prepared, {"x": np.float32([[1.5, -2, 3, 4]])}, atol=0)


def test_one_node_that_defies_inference_costs_no_other_types() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    model = g.model(y=g.op("MatMul", g.op("Relu", x, name="relu"), g.weight("w", 5, 3), name="impossible"))
    assert {node.name: node.outputs[0].dtype for node in prepare(model).graph}["relu"] == FLOAT


def test_functions_are_put_in_their_places() -> None:
    body = onnx.helper.make_function(
        "pkg.torch", "Linear", ["x", "w"], ["y"], [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        [onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    original = tiny_mlp()
    proto = ir.to_proto(original)
    proto.functions.append(body)
    proto.opset_import.append(onnx.helper.make_opsetid("pkg.torch", 1))
    first = proto.graph.node[0]
    first.op_type, first.domain = "Linear", "pkg.torch"
    prepared = prepare(ir.from_proto(proto))
    assert [op.kind for op in weighted_ops(prepared)] == ["MatMul", "Gemm"]
    assert_models_equal(original, prepared, X, atol=0)


def test_a_squeeze_says_which_axes() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 1, 4, 1)
    prepared = prepare(g.model(y=g.op("Squeeze", x)))
    assert prepared.graph.outputs[0].shape == ir.Shape(["batch", 4])
    for batch in (1, 3):  # of a single row, too
        assert outputs_of(prepared, {"x": np.ones((batch, 1, 4, 1), np.float32)})["y"].shape == (batch, 4)


def test_the_names_of_an_outputs_axes_are_not_believed() -> None:
    """As people export a model that enlarges images: height and width of its output, too, it is said."""
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 1, "height", "width")
    up = g.op("ConvTranspose", g.op("Relu", x), g.weight("w", 1, 1, 3, 3), strides=[3, 3])
    model = g.model(y=up)
    model.graph.outputs[0].shape = ir.Shape(["batch", 1, "height", "width"])
    batch, channels, height, width = prepare(model).graph.outputs[0].shape
    assert (str(batch), channels) == ("batch", 1)
    assert "height" not in str(height)
    assert "width" not in str(width)
