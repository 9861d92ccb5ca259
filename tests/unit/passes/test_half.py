import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from speech import speech_model

from calib8.errors import ModelError
from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, outputs_of, tiny_convnet, tiny_encoder, tiny_mlp, token_feeds

FLOAT, HALF, INT64 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT64
FEEDS = {
    tiny_mlp: {"x": np.float32([[1, -2, 3, 0.5]])},
    tiny_convnet: {"image": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)},
    tiny_encoder: token_feeds(3, 7),
}


def executed(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The first output as ONNX defines it. ONNX Runtime would compute FP16 nodes in FP32 on most CPUs."""
    return ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]


def quantised(make) -> ir.Model:
    model = prepare(make())
    ops = weighted_ops(model)
    return insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})


def kinds(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {node.name: node.outputs[0].dtype for node in model.graph}


def half_of(model: ir.Model) -> ir.Model:
    """Converted, and checked to be valid ONNX with the same inputs and outputs."""
    before = [(v.name, v.dtype, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]
    converted = to_half(model)
    assert [(v.name, v.dtype, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)] == before
    onnx.checker.check_model(ir.to_proto(converted), full_check=True)
    return converted


@pytest.mark.parametrize("make", FEEDS)
@pytest.mark.parametrize("qdq", [False, True])
def test_close_to_fp32_with_the_same_interface(make, qdq: bool) -> None:
    original = quantised(make) if qdq else prepare(make())
    converted = half_of(quantised(make) if qdq else prepare(make()))
    # FP16 has 11 bits: 2^-11 of values up to about 4; a quantised value may also fall into the next step of 4 / 127
    assert_models_equal(original, converted, FEEDS[make], atol=0.06 if qdq else 0.01)
    assert any(node.op_type == "Cast" for node in converted.graph)


@pytest.mark.parametrize("make", FEEDS)
def test_everything_but_qdq_and_norms_computes_in_fp16(make) -> None:
    for node in half_of(quantised(make)).graph:
        if node.op_type in ("MatMul", "Gemm", "Conv", "Add", "Relu", "Softmax", "Erf"):
            types = {value.dtype for value in (*node.inputs, *node.outputs)}
            assert types == {INT64} if node.name == "position" else types == {HALF}, node.name
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert FLOAT in (node.inputs[0].dtype, node.outputs[0].dtype)
            assert node.inputs[1].dtype == FLOAT  # FP16 scales overflow the accumulator in TensorRT


def test_casts_are_shared_and_nothing_unused_stays() -> None:
    model = half_of(quantised(tiny_encoder))
    casts = [(n.inputs[0].name, n.attributes.get_int("to")) for n in model.graph if n.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    assert all(value.uses() for value in model.graph.initializers.values())


def test_integers_are_untouched() -> None:
    before = {n.name: n.outputs[0].dtype for n in prepare(tiny_encoder()).graph if n.outputs[0].dtype == INT64}
    after = kinds(half_of(prepare(tiny_encoder())))
    assert before == {name: after[name] for name in before}
    assert {"count", "position"} <= set(before)


def index_model() -> ir.Model:
    """ids -> float arithmetic -> integer index -> table: 2049 must stay 2049, which FP16 cannot hold."""
    g = GraphBuilder()
    ids = g.input("ids", INT64, "batch", "s")
    scaled = g.op("Mul", g.op("Cast", ids, name="to_float", to=1), g.constant("one", 1.0), name="scaled")
    index = g.op("Cast", scaled, name="to_int", to=7)
    return g.model(y=g.op("Gather", g.constant("table", np.arange(4096)[:, None]), index, name="gather"))


def test_arithmetic_for_indices_stays_fp32() -> None:
    model = half_of(prepare(index_model()))
    assert (kinds(model)["to_float"], kinds(model)["scaled"], kinds(model)["gather"]) == (FLOAT, FLOAT, HALF)
    # the table's own value is rounded to even, its index is not
    assert executed(model, {"ids": np.array([[2049, 2051]])}).ravel().tolist() == [2048, 2052]


def test_angles_stay_fp32() -> None:
    g = GraphBuilder()
    ids = g.input("ids", INT64, "batch", "s")
    angle = g.op("Mul", g.op("Cast", ids, to=1, name="float"), g.constant("frequency", 0.3), name="angle")
    model = prepare(g.model(y=g.op("Relu", g.op("Sin", angle, name="sin"), name="relu")))
    ids_fed = {"ids": np.arange(1500).reshape(1, -1)}
    expected = executed(model, ids_fed)
    half_of(model)
    assert [kinds(model)[name] for name in ("float", "angle", "sin", "relu")] == [FLOAT, FLOAT, FLOAT, HALF]
    np.testing.assert_allclose(executed(model, ids_fed), expected, atol=2.0**-11)


@pytest.mark.parametrize("stand_in", [np.finfo(np.float32).min, -1e9, -np.inf])
def test_stand_ins_for_infinity_mask_without_nan(stand_in: float) -> None:
    g = GraphBuilder()
    scores = g.input("scores", FLOAT, "batch", 4)
    masked = g.op("Add", scores, g.constant("mask", [0, stand_in, stand_in, 0]), name="add")
    model = half_of(prepare(g.model(y=g.op("Softmax", masked))))
    assert kinds(model)["add"] == HALF
    # +-32752 for infinity: 30000 - 32752 must not win against 0, and -32768 - 32752 must not overflow to NaN
    got = executed(model, {"scores": np.float32([[1, 30, -60, 1]])})
    np.testing.assert_allclose(got, [[0.5, 0, 0, 0.5]], atol=1e-3)


def test_a_whole_row_of_padding_is_no_nan() -> None:
    feeds = token_feeds(3, 5)
    feeds["attention_mask"][0] = 0
    assert np.isfinite(executed(half_of(prepare(tiny_encoder())), feeds)).all()


@pytest.mark.parametrize(
    ("constant", "kept"),
    [(1e5, True), (65505.0, True), (65504.0, False), (1e-12, True), (1e-7, False), (0.0, False), (1.0, False)],
)
def test_constants_beyond_fp16_keep_their_node_in_fp32(constant: float, kept: bool) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2)
    model = prepare(g.model(y=g.op("Relu", g.op("Add", x, g.constant("c", constant), name="add"))))
    assert kinds(half_of(model))["add"] == (FLOAT if kept else HALF)


@pytest.mark.parametrize(
    ("fill", "dtype", "value"),
    [(0.5, HALF, 0.5), (1e5, FLOAT, 1e5), (float(np.finfo(np.float32).min), HALF, -32752.0)],
)
def test_constant_of_shape(fill: float, dtype: ir.DataType, value: float) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2)
    filled = g.op("ConstantOfShape", g.op("Shape", x), value=ir.tensor(np.float32([fill])), name="fill")
    model = half_of(prepare(g.model(y=filled)))
    assert kinds(model)["fill"] == dtype
    assert executed(model, {"x": np.zeros((1, 2), np.float32)}).tolist() == [[value, value]]


def test_operators_that_onnx_defines_for_fp32_only() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, 1, 1, 2, 2)
    limit = g.op("Cast", g.op("Gather", g.op("Shape", x), g.constant("i", 2, np.int64)), to=1, name="limit")
    ramp = g.op("Range", g.constant("start", 0.0), limit, g.constant("step", 1.0), name="range")
    empty = g.constant("roi", [])
    big = g.op("Resize", x, empty, g.constant("scales", [1, 1, 2, 2]), name="resize")
    model = half_of(prepare(g.model(y=g.op("Relu", big, name="relu"), r=g.op("Relu", ramp, name="ramp"))))
    assert (kinds(model)["range"], kinds(model)["ramp"]) == (FLOAT, HALF)
    assert next(n for n in model.graph if n.name == "resize").inputs[2].dtype == FLOAT
    got = outputs_of(model, {"x": np.ones((1, 1, 2, 2), np.float32)})
    assert (got["y"].shape, got["r"].tolist()) == ((1, 1, 4, 4), [0, 1])


def test_output_that_is_also_read() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2)
    y = g.op("Relu", x, name="first")
    model = half_of(prepare(g.model(y=y, z=g.op("Neg", y, name="second"))))
    assert kinds(model)["second"] == HALF
    got = outputs_of(model, {"x": np.float32([[1, -1]])})
    assert (got["y"].tolist(), got["z"].tolist()) == ([[1, 0]], [[-1, 0]])


def test_bodies_and_what_they_read_stay_float() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    hidden = g.op("Relu", g.op("MatMul", x, g.weight("w", 4, 4), name="before"), name="relu")
    flag = g.op("Greater", g.op("ReduceSum", x, keepdims=0, name="sum"), g.constant("zero", 0.0), name="flag")
    bodies = {}
    for name, op in (("then_branch", "Neg"), ("else_branch", "Exp")):
        out = ir.Value(name=name, type=ir.TensorType(FLOAT), shape=ir.Shape(["batch", 4]))
        bodies[name] = ir.Graph([], [out], nodes=[ir.node(op, [hidden], outputs=[out], name=op)], name=name)
    chosen = g.op("If", flag, name="if", **bodies)
    original = prepare(g.model(y=g.op("MatMul", chosen, g.weight("v", 4, 3), name="behind")))
    model = half_of(original.clone())
    found = kinds(model)
    assert (found["before"], found["relu"], found["if"], found["behind"]) == (HALF, HALF, FLOAT, HALF)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for sign in (1, -1):
        feeds = {"x": np.float32([[1, 2, -3, 4]]) * sign}
        np.testing.assert_allclose(outputs_of(model, feeds)["y"], outputs_of(original, feeds)["y"], rtol=0.01)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_a_decomposed_norm_does_not_overflow(square: str) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    axes = [-1]
    centred = g.op("Sub", x, g.op("ReduceMean", x, axes=axes))
    squared = g.op("Pow", centred, g.constant("two", 2.0)) if square == "Pow" else g.op("Mul", centred, centred)
    variance = g.op("Add", g.op("ReduceMean", squared, axes=axes), g.constant("epsilon", 1e-5))
    model = prepare(g.model(y=g.op("Div", centred, g.op("Sqrt", variance))))
    # 600 is representable in FP16, its square is not: 360,000 > 65,504. Mean 0, variance 360,000, so y = +-1
    y = executed(half_of(model), {"x": np.float32([[600, -600, 600, -600]])})
    np.testing.assert_allclose(y, [[1, -1, 1, -1]], atol=1e-3)


def test_a_cast_to_integer_reads_fp32() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    model = prepare(g.model(y=g.op("Cast", g.op("Mul", x, g.constant("c", 1.0)), to=7), z=g.op("Shape", x)))
    # 2049, 15.9999 and 70001 in FP16: 2048, 16 and infinity
    feeds = {"x": np.float32([[2049, 15.9999, 4099, 70001]])}
    assert executed(half_of(model), feeds).tolist() == [[2049, 15, 4099, 70001]]
    assert [node.op_type for node in model.graph] == ["Mul", "Cast", "Shape"]  # all in FP32, no Cast for a shape


def test_logarithmic_buckets_round_as_trained() -> None:
    g = GraphBuilder()
    distance = g.op("Cast", g.input("n", INT64, "batch"), to=1)
    log = g.op("Div", g.op("Log", g.op("Div", distance, g.constant("exact", 8.0))), g.constant("k", np.log(16.0)))
    bucket = g.op("Cast", g.op("Mul", log, g.constant("eight", 8.0)), to=7)
    model = prepare(g.model(y=bucket))
    distances = {"n": np.arange(9, 2000)}
    expected = executed(model, distances)
    np.testing.assert_array_equal(executed(half_of(model), distances), expected)


@pytest.mark.parametrize("op_type", ["Greater", "Less", "Equal", "ArgMax"])
def test_comparisons_read_fp32(op_type: str) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 3)
    y = g.op("ArgMax", x, axis=1) if op_type == "ArgMax" else g.op(op_type, x, g.constant("c", 2049.0))
    model = prepare(g.model(y=y))
    feeds = {"x": np.float32([[2048, 2049, 2050]])}
    expected = executed(model, feeds).tolist()
    assert executed(half_of(model), feeds).tolist() == expected


def norm(g: GraphBuilder, x: ir.Value, kind: str) -> ir.Value:
    """The length of the rows of ``x`` [batch, 4], guarded against zero."""
    axes = g.constant("axes", [1], np.int64)
    if kind == "ReduceL2":
        length = g.op("ReduceL2", x, axes=[1], keepdims=1)
    elif kind == "ReduceSumSquare":
        length = g.op("Sqrt", g.op("ReduceSumSquare", x, axes=[1], keepdims=1))
    else:
        square = g.op("Mul", x, x) if kind == "Mul" else g.op("Pow", x, g.constant("two", 2.0))
        length = g.op("Sqrt", g.op("ReduceSum", square, axes, keepdims=1))
    return length


@pytest.mark.parametrize("kind", ["ReduceL2", "ReduceSumSquare", "Mul", "Pow"])
@pytest.mark.parametrize("guard", ["Clip", "Max", "Add", "Clip and Expand"])
def test_division_by_a_guarded_norm(kind: str, guard: str) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    guarded = g.op(guard.split(maxsplit=1)[0], norm(g, x, kind), g.constant("epsilon", 1e-12))
    if guard == "Clip and Expand":
        guarded = g.op("Expand", guarded, g.op("Shape", x))
    model = prepare(g.model(y=g.op("Relu", g.op("Div", x, guarded), name="relu")))
    # 0 / 1e-12 is 0, where FP16 has 0 / 0; 200^2 + 200^2 + 200^2 + 100^2 = 130,000 is beyond FP16, its root 361 is not
    got = executed(half_of(model), {"x": np.float32([[0, 0, 0, 0], [200, 200, 200, 100]])})
    np.testing.assert_allclose(got, [[0, 0, 0, 0], np.array([200, 200, 200, 100]) / 130_000**0.5], atol=1e-3)
    assert kinds(model)["relu"] == HALF


def test_a_reciprocal_root_beyond_fp16() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    mean = g.op("ReduceMean", g.op("Mul", x, x), axes=[1])
    root = g.op("Reciprocal", g.op("Sqrt", g.op("Add", mean, g.constant("epsilon", 1e-12))))
    scaled = g.op("Mul", x, g.op("Mul", root, g.constant("gamma", [1, 1, 2, 2])))
    model = half_of(prepare(g.model(y=scaled)))
    # 1 / sqrt(1e-12) = 1e6 is beyond FP16: infinity times zero would be NaN
    assert executed(model, {"x": np.float32([[0, 0, 0, 0], [1, 1, 1, 1]])}).tolist() == [[0, 0, 0, 0], [1, 1, 2, 2]]


def test_gemms_never_stay_fp32() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    big = g.op("Mul", x, g.constant("big", 1e5), name="big")
    model = half_of(prepare(g.model(y=g.op("MatMul", big, g.weight("w", 4, 4), name="mm"))))
    assert (kinds(model)["big"], kinds(model)["mm"]) == (FLOAT, HALF)


@pytest.mark.parametrize("stand_in", [-1e5, -1e6, -1e8, -1e10, -3.4e38])
def test_masks_of_any_size_leave_a_padded_row_finite(stand_in: float) -> None:
    g = GraphBuilder()
    x, mask = g.input("x", FLOAT, "batch", 4), g.input("mask", INT64, "batch", 4)
    padded = g.op("Sub", g.constant("one", 1.0), g.op("Cast", mask, to=1))
    scores = g.op("Add", x, g.op("Mul", padded, g.constant("masked", stand_in), name="mul"), name="add")
    model = half_of(prepare(g.model(y=g.op("Softmax", scores, axis=-1))))
    assert (kinds(model)["mul"], kinds(model)["add"]) == (HALF, HALF)
    feeds = {"x": np.float32([[1, 2, 3, 4], [5, 5, 5, 5]]), "mask": np.array([[0, 0, 0, 0], [1, 1, 0, 0]])}
    got = executed(model, feeds)
    np.testing.assert_allclose(got[1], [0.5, 0.5, 0, 0], atol=1e-3)
    np.testing.assert_allclose(got[0].sum(), 1, atol=1e-2)


@pytest.mark.parametrize("bound", [1e5, 3.4e38, np.inf])
def test_bounds_end_where_fp16_ends(bound: float) -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 2)
    high = g.constant("high", bound)
    y = g.op("Clip", x, g.constant("low", -bound), high, name="clip")
    model = half_of(prepare(g.model(y=y, z=g.op("Min", g.op("Relu", x), high))))
    assert kinds(model)["clip"] == HALF
    assert executed(model, {"x": np.float32([[60000, -60000]])}).tolist() == [[60000, -60000]]


def test_a_constant_with_two_meanings() -> None:
    g = GraphBuilder()
    x, far = g.input("x", FLOAT, "batch", 2), g.constant("far", -3.4e38)
    scores = g.op("Add", g.op("Mul", x, g.constant("small", 2.0**-20)), far)
    model = half_of(prepare(g.model(y=g.op("Max", x, far), z=g.op("Softmax", scores))))
    got = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": np.float32([[-60000, -60000]])})
    assert [array.tolist() for array in got] == [[[-60000, -60000]], [[0.5, 0.5]]]


def with_foreign_gelu(dtype: ir.DataType | None) -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 4)
    out = ir.Value(name="gelu_out", type=None if dtype is None else ir.TensorType(dtype), shape=x.shape)
    g.nodes.append(ir.node("Gelu", [x], domain="com.microsoft", outputs=[out], name="gelu"))
    model = g.model(y=g.op("MatMul", g.op("Relu", out, name="relu"), g.weight("w", 4, 4), name="mm"))
    model.graph.outputs[0].type, model.graph.outputs[0].shape = ir.TensorType(FLOAT), x.shape
    model.graph.opset_imports["com.microsoft"] = 1
    return prepare(model)


def test_a_node_of_unknown_type_is_refused() -> None:
    with pytest.raises(ModelError, match=r"node 'gelu' \(Gelu of domain 'com\.microsoft'\).*--remainder fp32"):
        to_half(with_foreign_gelu(None))


def test_an_operator_of_another_domain_stays_fp32() -> None:
    model = to_half(with_foreign_gelu(FLOAT))
    assert [kinds(model)[name] for name in ("gelu", "relu", "mm")] == [FLOAT, HALF, HALF]
    assert outputs_of(model, {"x": np.ones((2, 4), np.float32)})["y"].dtype == np.float32


def test_an_operator_that_fixes_its_type_stays_fp32() -> None:
    g = GraphBuilder()
    x = g.input("x", FLOAT, 2, 2)
    model = half_of(prepare(g.model(y=g.op("Add", x, g.op("EyeLike", x, dtype=1, name="eye"), name="add"))))
    assert (kinds(model)["eye"], kinds(model)["add"]) == (FLOAT, HALF)
    assert executed(model, {"x": np.ones((2, 2), np.float32)}).tolist() == [[2, 1], [1, 2]]


def test_what_a_length_is_computed_from_stays_fp32() -> None:
    model = to_half(prepare(speech_model()))
    types = {node.name: node.outputs[0].dtype for node in model.graph}
    assert types["encoder"] == types["durations"] == FLOAT
    assert types["flow"] == types["decoder"] == HALF
