import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.numerics import dequantize, quantize_weight
from calib8.passes import quantize_embedding
from calib8.passes.prepare import prepare
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.testing import outputs_of, tiny_encoder, token_feeds


@pytest.fixture(autouse=True)
def small_tables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_embedding, "MINIMUM_BYTES", 512)


def lookup(array: np.ndarray, axis: int = 0, *, second: str = "Gather") -> ir.Model:
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT64, "batch")
    table = g.constant("table", array, array.dtype)
    first = g.op("Gather", table, ids, axis=axis, name="first")
    other = g.op("Gather", table, ids, name="second") if second == "Gather" else g.op(second, table, name="second")
    return prepare(g.model(y=first, z=other))


def test_rows_by_hand() -> None:
    array = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) * np.arange(64, dtype=np.float32)[:, None]
    model = quantize_embeddings(lookup(array))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "Gather", "Gather"]
    assert model.graph[0].attributes.get_int("axis") == 0
    assert sorted(model.graph.initializers) == ["table_quantized", "table_scale", "table_zero_point"]
    codes, scale = quantize_weight(array, axis=0)
    got = outputs_of(model, {"ids": np.array([0, 63, 5])})
    for name in ("y", "z"):
        np.testing.assert_array_equal(got[name], dequantize(codes, scale[:, None])[[0, 63, 5]])


@pytest.mark.parametrize(
    "model",
    [
        lookup(np.zeros((8, 4), np.float32)),  # 128 bytes
        lookup(np.zeros((64, 4), np.float32), axis=1),
        lookup(np.zeros((64, 4), np.float32), second="Transpose"),
        lookup(np.zeros((64, 2, 2), np.float32)),
        lookup(np.zeros((64, 4), np.int64)),
    ],
    ids=["small", "axis 1", "other reader", "rank 3", "integers"],
)
def test_what_is_left_alone(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    assert ir.to_proto(quantize_embeddings(model)).SerializeToString() == before


def test_encoder_keeps_its_meaning() -> None:
    feeds = token_feeds(3, 7)
    expected = outputs_of(prepare(tiny_encoder()), feeds)["last_hidden_state"]
    model = quantize_embeddings(prepare(tiny_encoder()))
    assert {"words_quantized", "positions_quantized"} <= set(model.graph.initializers)
    got = outputs_of(model, feeds)["last_hidden_state"]
    assert 0 < np.abs(got - expected).max() < 0.1


def test_a_table_that_is_also_an_output_stays() -> None:
    g = GraphBuilder()
    table = g.weight("table", 64, 4)
    y = g.op("Gather", table, g.input("ids", ir.DataType.INT64, "batch"))
    model = quantize_embeddings(prepare(g.model(y=y, table=table)))
    assert "table_quantized" in model.graph.initializers
    assert outputs_of(model, {"ids": np.array([3])})["table"].shape == (64, 4)


def test_a_table_that_a_branch_reads_before_the_main_graph() -> None:
    g = GraphBuilder()
    ids, table = g.input("ids", ir.DataType.INT64, "batch"), g.weight("table", 64, 4)
    flag = g.op("Greater", g.op("ReduceSum", ids, keepdims=0), g.constant("zero", 0, np.int64))
    branches = {}
    for name in ("then_branch", "else_branch"):
        out = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 4]))
        branches[name] = ir.Graph([], [out], nodes=[ir.node("Gather", [table, ids], outputs=[out])], name=name)
    chosen = g.op("If", flag, name="if", **branches)
    model = quantize_embeddings(prepare(g.model(y=chosen, z=g.op("Gather", table, ids, name="main"))))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    got = outputs_of(model.clone(), {"ids": np.array([0, 63, 5])})
    np.testing.assert_array_equal(got["y"], got["z"])
