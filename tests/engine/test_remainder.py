"""What FP16 cannot hold, from data to engines that TensorRT-RTX builds."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8 as library
from calib8.errors import BuildError
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, save
from calib8.runtime.judged import open_as_built

FLOAT = ir.DataType.FLOAT
X = np.random.default_rng(5).normal(size=(64, 32)).astype(np.float32)


def price() -> ir.Model:
    """A regression head whose last ops undo a standardisation: Mul(4e4), Add(6e4)."""
    g = GraphBuilder()
    x = g.input("x", FLOAT, "batch", 32)
    h = g.op("Relu", g.op("MatMul", x, g.weight("w", 32, 64), name="hidden"), name="relu")
    scaled = g.op("Mul", g.op("MatMul", h, g.weight("v", 64, 4), name="head"), g.constant("std", 4e4), name="scaled")
    return g.model(y=g.op("Add", scaled, g.constant("mean", 6e4), name="price"))


def loud() -> ir.Model:
    """A MatMul that leaves FP16, brought back by a Mul."""
    g = GraphBuilder()
    h = g.op("MatMul", g.input("x", FLOAT, "batch", 32), g.constant("w", 3e4 * np.eye(32)), name="loud")
    quiet = g.op("Mul", h, g.constant("k", 1e-4), name="quiet")
    return g.model(y=g.op("MatMul", quiet, g.weight("v", 32, 8), name="head"))


def converted(model: ir.Model, folder: Path, **build: object) -> library.Report:
    save(model, folder / "model.onnx")
    np.save(folder / "x.npy", X)
    options = library.Convert(build=library.Build(**build))
    return library.convert(folder / "model.onnx", {"x": X}, folder / "out", options)


def types(folder: Path) -> dict[str | None, ir.DataType | None]:
    return {node.name: node.outputs[0].dtype for node in load(folder / "out" / "model.int8.onnx").graph}


def test_arithmetic_beyond_fp16_stays_fp32_on_every_target(tmp_path: Path) -> None:
    report = converted(price(), tmp_path)
    assert [engine.target for engine in report.engines] == ["sm75", "sm86", "sm89", "sm120"]
    assert all(engine.plan.passed for engine in report.engines)
    found = types(tmp_path)
    assert (found["scaled"], found["price"]) == (FLOAT, FLOAT)
    assert found["relu"] == ir.DataType.FLOAT16
    assert report.passed
    assert "FP16 rounded behind every op" in report.accuracy_runtime


def test_without_the_marks_the_verdict_is_that_of_the_engine(tmp_path: Path) -> None:
    save(price(), tmp_path / "model.onnx")
    model = library.load(tmp_path / "model.onnx")
    ranges = library.calibrate(model, {"x": X})
    assert set(ranges.beyond) == {"scaled_out", "y"}
    blind = library.quantize(model, ranges.model_copy(update={"beyond": {}}))
    library.save(blind, tmp_path / "blind.onnx")
    with pytest.raises(library.DataError, match=r"for sample \d+\. It comes up first in node '(scaled|price)' "):
        library.compare(tmp_path / "model.onnx", tmp_path / "blind.onnx", {"x": X})
    in_fp32 = library.compare(tmp_path / "model.onnx", tmp_path / "blind.onnx", {"x": X}, runtime="onnxruntime")
    assert in_fp32.cosine_mean > 0.99  # what was called a proof


def test_turing_is_left_out_where_a_product_must_stay_fp32_and_refused_by_name_where_it_is_asked_for(
    tmp_path: Path, notes
) -> None:
    report = converted(loud(), tmp_path)
    assert [engine.target for engine in report.engines] == ["sm86", "sm89", "sm120"]
    assert types(tmp_path)["loud"] == FLOAT
    int8 = tmp_path / "out" / "model.int8.onnx"
    library.build(int8, tmp_path / "x.engine", progress=notes)
    (message,) = [message for message in notes.messages if "no engine for sm75" in message]
    assert "1 stay FP32 (loud)" in message
    with pytest.raises(BuildError, match=r"ONNX node: loud\. Remedy: .*scale them down in the model, or drop sm75"):
        library.build(int8, tmp_path / "y.engine", library.Build(targets="sm75"))


def test_what_is_judged_is_what_onnx_says_of_the_file(tmp_path: Path) -> None:
    converted(price(), tmp_path, targets="sm86")
    with open_as_built(load(tmp_path / "out" / "model.int8.onnx")) as judged:
        got = judged(x=X)["y"]
    with library.open(tmp_path / "model.onnx") as reference:
        expected = reference(x=X)["y"]
    assert np.abs(expected).max() > 65504
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_recurrent_layer_with_lengths_builds(tmp_path: Path) -> None:
    """In FP16 TensorRT-RTX 1.7 refuses it: "ISelectLayer must have `thenInput` and `elseInput` of same types"."""
    g = GraphBuilder()
    x, lengths = g.input("x", FLOAT, "batch", "time", 32), g.input("lengths", ir.DataType.INT32, "batch")
    turned = g.op("Transpose", g.op("MatMul", x, g.weight("w", 32, 64), name="wide"), perm=[1, 0, 2], name="turned")
    weights = g.weight("gw", 2, 48, 64), g.weight("gr", 2, 48, 16), g.constant("b", np.zeros((2, 96)))
    gru = g.op("GRU", turned, *weights, lengths, name="gru", hidden_size=16, direction="bidirectional")
    states = g.op("Reshape", g.op("Transpose", gru, perm=[2, 0, 1, 3]), g.constant("to", [0, 0, 32], "int64"))
    save(g.model(y=g.op("MatMul", states, g.weight("v", 32, 8), name="behind")), tmp_path / "model.onnx")
    data = {"x": np.random.default_rng(5).normal(size=(64, 6, 32)).astype(np.float32), "lengths": np.full(64, 6, "i4")}
    options = library.Convert(build=library.Build(targets=("sm86",)))
    report = library.convert(tmp_path / "model.onnx", data, tmp_path / "out", options)
    assert [(one.target, one.plan.passed) for one in report.engines] == [("sm86", True)]
    found = types(tmp_path)
    assert (found["gru"], found["turned"]) == (FLOAT, ir.DataType.FLOAT16)
