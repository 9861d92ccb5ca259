"""What a builder is given to parse: of an INT8 encoder, tokens sequence first for the full TensorRT alone."""

from pathlib import Path

import onnx_ir as ir
import pytest

from calib8.engine.parsed_form import to_parse
from calib8.graph.io import load, save
from calib8.graph.weighted import weighted_ops
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.testing import assert_models_equal, tiny_encoder, tiny_mlp, token_feeds


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
