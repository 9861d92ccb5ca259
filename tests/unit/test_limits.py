import numpy as np
import onnx_ir as ir
import pytest

from calib8.graph.limits import dimension_limits
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.testing import GraphBuilder, tiny_encoder, tiny_mlp


@pytest.mark.parametrize("positions", [4, 16, 512])
def test_positions_counted_from_the_mask(positions: int) -> None:
    # positions run from 2 to length + 1 and the table has positions + 2 rows: the last row holds token `positions`
    assert dimension_limits(tiny_encoder(positions=positions)) == {"sequence": positions}


def test_int8_position_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib8.passes.quantize_embedding.MINIMUM_BYTES", 1)
    assert dimension_limits(quantize_embeddings(tiny_encoder(positions=16))) == {"sequence": 16}


def test_float_inputs_have_no_limit() -> None:
    assert dimension_limits(tiny_mlp()) == {}


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


def test_saturating_buckets_are_no_limit() -> None:
    assert dimension_limits(positional(32, "bucket")) == {}


def test_the_tightest_table_counts() -> None:
    g = GraphBuilder()
    ids = g.input("ids", ir.DataType.INT64, "batch", "s")
    one, zero = g.constant("one", 1, np.int64), g.constant("zero", 0, np.int64)
    index = g.op("Range", zero, g.op("Gather", g.op("Shape", ids), one), one)
    a, b = (g.op("Gather", g.weight(f"t{rows}", rows, 4), index) for rows in (70, 50))
    assert dimension_limits(g.model(y=g.op("Shape", a), z=g.op("Shape", b))) == {"s": 50}
