import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.builder import GraphBuilder
from calib8.graph.inputs import declared_inputs
from calib8.graph.limits import dimension_limits
from calib8.passes.half import to_half
from calib8.passes.prepare import prepare
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.testing import tiny_encoder, tiny_mlp


@pytest.mark.parametrize("positions", [4, 16, 512])
def test_positions_counted_from_the_mask(positions: int) -> None:
    # positions run from 2 to length + 1 and the table has positions + 2 rows: the last row holds token `positions`
    assert dimension_limits(tiny_encoder(positions=positions)) == {"sequence": positions}


def test_int8_position_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.passes.quantize_embedding.MINIMUM_BYTES", 1)
    assert dimension_limits(quantize_embeddings(tiny_encoder(positions=16))) == {"sequence": 16}


def test_float_inputs_have_no_limit() -> None:
    assert dimension_limits(tiny_mlp()) == {}


def logarithmic_buckets(g: GraphBuilder, positions: ir.Value, rows: int) -> ir.Value:
    """T5's one-sided buckets of i - j, [s, s]: exact for the first half of the rows, logarithmic to 128."""
    column = g.op("Unsqueeze", positions, g.constant("column", [1], np.int64))
    distance = g.op("Max", g.op("Sub", column, positions), g.constant("none", 0, np.int64))
    exact = g.constant("exact", rows // 2, np.int64)
    ratio = g.op("Div", g.op("Cast", distance, to=1), g.constant("exact_float", rows / 2))
    scaled = g.op("Mul", g.op("Log", ratio), g.constant("scale", rows / 2 / np.log(128 / (rows / 2))))
    far = g.op("Min", g.op("Add", exact, g.op("Cast", scaled, to=7)), g.constant("last", rows - 1, np.int64))
    return g.op("Where", g.op("Less", distance, exact), distance, far)


def positional(rows: int, kind: str) -> ir.Model:
    """ids -> positions of some kind -> table of ``rows`` rows."""
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT64, "batch", "s")
    one, zero = g.constant("one", 1, np.int64), g.constant("zero", 0, np.int64)
    length = g.op("Gather", g.op("Shape", ids), one)
    if kind == "range":
        index = g.op("Range", zero, length, one)
    elif kind == "slice":
        axes = g.constant("axes", [1], np.int64)
        buffer = g.constant("buffer", np.arange(rows)[None], np.int64)
        ends = g.op("Unsqueeze", length, g.constant("axis0", [0], np.int64))
        index = g.op("Slice", buffer, g.constant("starts", [0], np.int64), ends, axes)
    elif kind == "log buckets":
        index = logarithmic_buckets(g, g.op("Range", zero, length, one), rows)
    elif kind == "bucket":
        index = g.op("Min", g.op("Range", zero, length, one), g.constant("last", rows - 1, np.int64))
    else:
        index = g.op("Mul", ids, zero)
    return g.model(y=g.op("Gather", g.weight("table", rows, 4), index))


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("range", {"s": 400}),  # positions 0 to length - 1: 400 rows take 400 tokens
        ("slice", {"s": 400}),
        ("constant", {}),
    ],
)
def test_kinds_of_positions(kind: str, limits: dict[str, int]) -> None:
    assert dimension_limits(positional(400, kind)) == limits


@pytest.mark.parametrize("rows", [77, 256, 512])
@pytest.mark.parametrize("kind", ["range", "slice"])
def test_tables_of_any_size(rows: int, kind: str) -> None:
    assert dimension_limits(positional(rows, kind)) == {"s": rows}


@pytest.mark.parametrize("kind", ["bucket", "log buckets"])
@pytest.mark.parametrize("rows", [16, 32, 64])
def test_saturating_buckets_are_no_limit(kind: str, rows: int) -> None:
    assert dimension_limits(positional(rows, kind)) == {}


def test_a_buffer_of_positions_that_ends_before_its_table() -> None:
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT64, "batch", "s")
    end = g.op("Gather", g.op("Shape", ids), g.constant("one", [1], np.int64))
    zero, buffer = g.constant("zero", [0], np.int64), g.constant("buffer", np.zeros((1, 100)), np.int64)
    kinds = g.op("Slice", buffer, zero, end, g.constant("axes", [1], np.int64))
    assert dimension_limits(g.model(y=g.op("Gather", g.weight("types", 2, 4), kinds))) == {"s": 100}


def test_unnamed_dimensions() -> None:
    model = tiny_encoder(positions=16)
    for value in model.graph.inputs:
        value.shape = ir.Shape([None, None])
    assert dimension_limits(model) == {"attention_mask[1]": 16}
    model = positional(77, "range")
    model.graph.inputs[0].shape = ir.Shape(["batch", None])
    assert dimension_limits(model) == {"ids[1]": 77}


def test_names_that_an_exporter_made_up() -> None:
    model = tiny_encoder(positions=16)
    for value in model.graph.inputs:
        value.shape = ir.Shape([f"{value.name}_0", f"{value.name}_1"])
    assert dimension_limits(model) == {"input_ids_1": 16}
    assert {spec.shape for spec in declared_inputs(model)} == {("input_ids_0", "input_ids_1")}


def test_inputs_that_have_no_say_in_positions() -> None:
    model = positional(77, "range")
    for name in ("bias", "image"):
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", f"{name}_size"]))
        model.graph.inputs.append(value)
    assert dimension_limits(model) == {"s": 77}


def test_positions_counted_from_a_float_mask() -> None:
    g = GraphBuilder()
    mask = g.input("attention_mask", ir.DataType.FLOAT, "batch", "s")
    index = g.op("Cast", g.op("CumSum", mask, g.constant("axis", 1, np.int64)), to=7)
    assert dimension_limits(g.model(y=g.op("Gather", g.weight("table", 51, 4), index))) == {"s": 50}


def test_each_sequence_has_its_own_table() -> None:
    g = GraphBuilder()
    one, zero = g.constant("one", 1, np.int64), g.constant("zero", 0, np.int64)
    outputs = {}
    for name, rows in (("a", 50), ("b", 70)):
        ids = g.input(name, ir.DataType.INT64, "batch", f"{name}_length")
        index = g.op("Range", zero, g.op("Gather", g.op("Shape", ids), one), one)
        outputs[f"y{name}"] = g.op("Gather", g.weight(f"t{rows}", rows, 4), index)
    assert dimension_limits(g.model(**outputs)) == {"a_length": 50, "b_length": 70}


def test_an_index_that_cannot_be_computed_is_no_limit() -> None:
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT64, "batch", "s")
    index = ir.Value(name="index", type=ir.TensorType(ir.DataType.INT64))
    g.nodes.append(ir.node("Positions", [ids], domain="custom", outputs=[index], name="positions"))
    model = g.model(y=g.op("Gather", g.weight("table", 50, 4), index))
    assert dimension_limits(model) == {}


def test_initializers_among_the_inputs() -> None:
    model = positional(77, "slice")
    model.graph.inputs.extend(model.graph.initializers.values())
    assert dimension_limits(model) == {"s": 77}


def test_limits_survive_int8_tables_with_an_fp16_remainder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.passes.quantize_embedding.MINIMUM_BYTES", 1)
    model = to_half(quantize_embeddings(prepare(tiny_encoder(vocabulary=32, positions=16))))
    assert dimension_limits(model) == {"sequence": 16}
    assert [spec.limit for spec in declared_inputs(model)] == [32, None]


def test_the_tightest_table_counts() -> None:
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT64, "batch", "s")
    one, zero = g.constant("one", 1, np.int64), g.constant("zero", 0, np.int64)
    index = g.op("Range", zero, g.op("Gather", g.op("Shape", ids), one), one)
    a, b = (g.op("Gather", g.weight(f"t{rows}", rows, 4), index) for rows in (70, 50))
    assert dimension_limits(g.model(y=g.op("Shape", a), z=g.op("Shape", b))) == {"s": 50}
