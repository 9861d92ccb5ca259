"""What a builder is given to parse: of an INT8 encoder, tokens sequence first for the full TensorRT alone."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import calib8
from calib8.engine.able import with_kernels
from calib8.engine.parsed_form import to_parse
from calib8.engine.quantized import quantized_ops
from calib8.graph.builder import GraphBuilder
from calib8.graph.io import load, save
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, outputs_of, tiny_encoder, tiny_mlp, token_feeds


def int8(model: ir.Model, folder: Path) -> Path:
    """``model`` with Q and DQ, the rest in FP32: nothing is rounded to FP16 on the way to the builder."""
    ops = weighted_ops(prepare(model))
    quantised = insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})
    return save(quantised, folder / "model.int8.onnx")


def swaps(model: ir.Model) -> int:
    return sum(list(node.attributes.get_ints("perm") or ()) == [1, 0, 2] for node in model.graph)


def test_an_encoder_comes_sequence_first_into_tensorrt(tmp_path: Path) -> None:
    path = int8(tiny_encoder(), tmp_path)
    with to_parse(path, "int8", "tensorrt", tmp_path / "x.engine") as parsed:
        assert parsed != path
        assert parsed.name == path.name
        changed = load(parsed)
        assert swaps(changed) == 3
        assert [value.name for value in changed.graph.inputs] == ["input_ids", "attention_mask"]
        assert_models_equal(load(path), changed, token_feeds(4, 9), atol=0)
    assert not parsed.exists()
    assert swaps(load(path)) == 0  # the file itself is as it was


def test_tensorrt_rtx_gets_the_file_itself(tmp_path: Path) -> None:
    path = int8(tiny_encoder(), tmp_path)
    with to_parse(path, "int8", "rtx", tmp_path / "x.engine") as parsed:
        assert parsed == path


@pytest.mark.parametrize("family", ["rtx", "tensorrt"])
def test_a_model_without_heads_is_the_file_itself(family: str, tmp_path: Path) -> None:
    path = int8(tiny_mlp(), tmp_path)
    with to_parse(path, "int8", family, tmp_path / "x.engine") as parsed:
        assert parsed == path


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_float_encoder_keeps_its_order(precision: str, tmp_path: Path) -> None:
    """TensorRT chooses the order itself there: nothing stands in its way."""
    path = save(tiny_encoder(), tmp_path / "model.onnx")
    with to_parse(path, precision, "tensorrt", tmp_path / "x.engine") as parsed:
        assert swaps(load(parsed)) == 0


def far() -> ir.Model:
    """x -> MatMul -> Mul(1000) -> Relu -> Mul(0.001) -> MatMul -> y"""
    g, r = GraphBuilder(), np.random.default_rng(0)
    x = g.input("x", ir.DataType.FLOAT, "batch", 4)
    product = g.op("MatMul", x, g.constant("w1", r.normal(size=(4, 8))), name="first")
    large = g.op("Relu", g.op("Mul", product, g.constant("up", 1000.0), name="large"), name="relu")
    small = g.op("Mul", large, g.constant("down", 0.001), name="small")
    return g.model(y=g.op("MatMul", small, g.constant("w2", r.normal(size=(8, 2))), name="second"))


@pytest.mark.parametrize(
    ("precision", "unheld", "kept"),
    [
        ("fp16", ("large_out",), {"large", "relu", "small"}),
        ("fp16", (), set()),
        ("fp16", None, set()),
        ("bf16", ("large_out",), set()),  # which goes as far as FP32
        ("fp32", ("large_out",), {"first", "large", "relu", "small", "second"}),
    ],
)
def test_what_fp16_does_not_hold_of_a_float_model_stays_fp32(precision, unheld, kept, tmp_path: Path) -> None:
    path = save(far(), tmp_path / "model.onnx")
    with to_parse(path, precision, "rtx", tmp_path / "x.engine", unheld) as parsed:
        form = load(parsed)
    types = {node.name: node.outputs[0].dtype for node in form.graph if node.op_type != "Cast"}
    assert {name for name, dtype in types.items() if dtype == ir.DataType.FLOAT} == kept


def test_a_number_beyond_fp16_comes_through_the_form_that_is_built(tmp_path: Path) -> None:
    """onnx.reference computes FP16 in FP16: what ONNX Runtime does not, and what is infinite there."""
    path, x = save(far(), tmp_path / "model.onnx"), {"x": np.full((1, 4), 90, np.float32)}
    found = {}
    for unheld in ((), ("large_out",)):
        with to_parse(path, "fp16", "rtx", tmp_path / "x.engine", unheld) as parsed:
            reference = ReferenceEvaluator(ir.to_proto(load(parsed)))
            with np.errstate(over="ignore", invalid="ignore"):
                (found[unheld],) = reference.run(None, x)
    assert not np.isfinite(found[()]).all()
    np.testing.assert_allclose(found["large_out",], outputs_of(load(path), x)["y"], rtol=2e-3, atol=0.5)


def grouped() -> ir.Model:
    """first (of codes) -> depthwise -> average"""
    g = GraphBuilder(18)
    x = g.op("Conv", g.input("x", ir.DataType.FLOAT, "batch", 4, 8, 8), g.weight("w", 4, 4, 1, 1), name="first")
    x = g.op("Conv", g.op("Relu", x), g.weight("each.w", 4, 1, 3, 3), name="each", group=4)
    return g.model(y=g.op("GlobalAveragePool", x))


@pytest.mark.parametrize(("family", "asked"), [("tensorrt", ["first"]), ("rtx", ["first", "each"])])
def test_no_int8_is_asked_of_a_grouped_convolution_that_tensorrt_has_no_kernel_for(
    family: str, asked: list[str], tmp_path: Path, notes
) -> None:
    model = prepare(grouped())
    data = [{"x": np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32)}]
    config = calib8.Int8(min_sqnr_db=0, treatment="plain", optimize="accuracy")
    path = save(calib8.quantize(model, calib8.calibrate(model, data), config), tmp_path / "model.int8.onnx")
    with to_parse(path, "int8", family, tmp_path / "x.engine") as parsed:
        ops = with_kernels(quantized_ops(load(path)), load(parsed), notes)
    assert [op.name for op in ops] == asked
    assert [note[:55] for note in notes.messages] == (
        ["1 of 2 quantised ops are FP16 in the engine, as 'each':"] if family == "tensorrt" else []
    )
