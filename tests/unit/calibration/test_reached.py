"""How far float tensors go, seen in the pass that finds the ranges."""

import numpy as np
import onnx_ir as ir

import calib8 as library
from calib8.calibration.collect import collect
from calib8.calibration.ranges import Ranges
from calib8.calibration.reached import Statistics, reaches
from calib8.calibration.state import from_bytes, to_bytes
from calib8.data.sources import Batches
from calib8.graph.builder import GraphBuilder
from calib8.graph.dataset import dataset_for
from calib8.passes.prepare import prepare
from calib8.passes.reach import Reach

X = [np.float32([[1, -2], [0, 3]]), np.float32([[-5, 4]])]


def model() -> ir.Model:
    """x -> MatMul by the identity -> Mul(1e4) -> Log(0) on the side: -inf."""
    g = GraphBuilder()
    same = g.op("MatMul", g.input("x", ir.DataType.FLOAT, "batch", 2), g.constant("one", np.eye(2)), name="same")
    endless = g.op("Log", g.op("Mul", same, g.constant("none", 0.0), name="none"), name="endless")
    return prepare(g.model(y=g.op("Mul", same, g.constant("k", 1e4), name="large"), z=endless))


def test_the_extremes_of_all_batches_and_none_of_what_is_not_finite(notes) -> None:
    seen = collect(model(), dataset_for(model(), Batches([{"x": x} for x in X]), notes), notes)
    assert list(seen) == ["x"]  # statistics are of what is quantised
    found = reaches(model(), seen.reached)
    assert found == {
        "x": Reach(minimum=-5, maximum=4),
        "same_out": Reach(minimum=-5, maximum=4),
        "none_out": Reach(minimum=0, maximum=0),
        "y": Reach(minimum=-5e4, maximum=4e4),
    }


def test_what_was_sent_or_kept_merges_to_the_same(notes) -> None:
    whole = collect(model(), dataset_for(model(), Batches([{"x": x} for x in X]), notes), notes)
    parts = [collect(model(), dataset_for(model(), Batches([{"x": x}]), notes), notes) for x in X]
    sent = [from_bytes(to_bytes({"reached": part.reached}))["reached"] for part in parts if part.reached]
    sent[0].merge(sent[1])
    assert reaches(model(), sent[0]) == reaches(model(), whole.reached)
    assert Statistics({}).reached is None
    assert reaches(model(), None) == {}


def test_ranges_hold_what_fp16_does_not_and_quantize_needs_no_data_to_keep_it_in_fp32(notes, tmp_path) -> None:
    ranges = library.calibrate(model(), Batches([{"x": x} for x in X]), progress=notes)
    assert ranges.beyond == {"y": Reach(minimum=-5e4, maximum=4e4)}
    ranges.save(tmp_path / "ranges.json")
    assert Ranges.load_unchanged(tmp_path / "ranges.json") == ranges
    quantised = library.quantize(model(), ranges, library.Quantize(min_sqnr_db=0))
    kinds = {node.name: node.outputs[0].dtype for node in quantised.graph}
    assert (kinds["same"], kinds["large"]) == (ir.DataType.FLOAT16, ir.DataType.FLOAT)
