"""The estimate from end to end: command, document, refusals, and that more work never takes less time."""

import json
from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import Shell
from wide_encoder import encoder

import calib8 as library
from calib8.cost.gpus import GPUS
from calib8.cost.kernels import kernels_of
from calib8.cost.roofline import milliseconds
from calib8.cost.sizes import shapes_for
from calib8.errors import ConfigError, ProfileError
from calib8.graph.io import save
from calib8.testing import tiny_convnet, tiny_encoder, tiny_mlp, token_feeds


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tiny_encoder(), tmp_path / "model.onnx")


def test_the_command(calib8: Shell, model: Path) -> None:
    arguments = ("estimate", model, "--gpus", "L4,t4", "--shapes", "input_ids:1x4:2x4:8x16")
    code, out, err = calib8(*arguments)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "model.onnx, 5 of 6 weighted ops in INT8: a model's estimate, not measured"
    rows = [line.split() for line in lines if line.startswith(("  T4", "  L4"))]
    times, known = rows[:6], rows[6:]
    assert [row[:2] for row in times] == [[gpu, shape] for gpu in ("T4", "L4") for shape in ("1x4", "2x4", "8x16")]
    assert [len(row) for row in times] == [5, 5, 5, 7, 7, 7]  # a T4 has no units for FP8
    # 9 kernels of which each takes but the floor: 10 us on a T4, 3.5 on an L4, where GELU in FP8 is one more.
    assert times[0][2:] == ["0.09", "0.09", "1.00x"]
    assert times[3][2:] == ["0.03", "0.03", "1.00x", "0.04", "0.90x"]
    assert [" ".join(row) for row in known] == [
        "T4 sm75 65 130 2.0x 320 NVIDIA's times of BERT-base",
        "L4 sm89 121 242 2.0x 300 NVIDIA's times of BERT-base",
    ]
    assert "embedding" not in out
    assert lines[-3:] == [
        "INT8 is the form of --optimize latency, FP8 has all matrix products; a speed-up",
        "is over FP16. Engines of TensorRT, as CUDA graphs, arrays in the GPU's memory.",
        "Before you ship, measure: calib8 bench.",
    ]


def test_groups(calib8: Shell, model: Path) -> None:
    code, out, _ = calib8("estimate", model, "--gpus", "L4", "--shapes", "input_ids:2x4:2x4:2x4", "--groups")
    assert code == 0
    assert "L4, 2x4: a model's estimate, not measured" in out
    rows = {line[2:22].strip(): line[22:].split() for line in out.splitlines() if line[2:22].strip()}
    assert rows["norm"] == ["2", "0.007", "2", "0.007", "2", "0.007"]
    assert rows["FP16 GEMM"] == ["4", "0.014", "1", "0.004"]
    assert rows["INT8 GEMM"] == ["3", "0.011"]


def test_the_document(calib8: Shell, model: Path) -> None:
    code, out, _ = calib8("estimate", model, "--gpus", "h200", "--shapes", "input_ids:2x4:2x4:8x16", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["format"], document["measured"], document["int8_ops"]) == ("calib8.estimate/1", False, 5)
    assert document["gpus"]["H200"]["basis"] == "MPNet in TensorRT 10.6"
    small, large = document["cells"]
    assert small["shapes"] == {"input_ids": [2, 4], "attention_mask": [2, 4]}
    assert small["fp16"]["groups"]["attention/softmax"]["kernels"] == 1
    assert small["fp16"]["ms"] == pytest.approx(sum(group["ms"] for group in small["fp16"]["groups"].values()))
    assert large["int8"]["ms"] >= small["int8"]["ms"]


def test_without_options_every_gpu_and_the_default_shapes(model: Path) -> None:
    report = library.estimate(model)
    assert list(report.gpus) == [gpu.name for gpu in GPUS]
    assert [cell.shape for cell in report.cells][:3] == ["1x1", "8x16", "64x16"]  # 16 positions is all it takes
    assert len(report.cells) == 3 * len(GPUS)


def test_a_model_without_matrix_products_has_nothing_in_fp8(tmp_path: Path) -> None:
    path = save(tiny_mlp(), tmp_path / "mlp.onnx")
    (cell, *_) = library.estimate(path, library.Estimate(gpus="L4")).cells
    assert cell.fp8 is not None
    assert cell.speedup("fp8") == pytest.approx(cell.fp16.ms / cell.fp8.ms)
    conv = tiny_convnet()
    conv.graph.outputs[0] = next(node for node in conv.graph if node.name == "flat").outputs[0]
    conv.graph.remove(next(node for node in conv.graph if node.name == "head"), safe=True)
    (cell, *_) = library.estimate(save(conv, tmp_path / "conv.onnx"), library.Estimate(gpus="L4")).cells
    assert cell.fp8 is cell.speedup("fp8") is None
    assert cell.shape == "1x3x8x8"


def test_a_gpu_of_which_nothing_is_known(calib8: Shell, model: Path) -> None:
    code, out, err = calib8("estimate", model, "--gpus", "T4,K80")
    assert (code, out) == (2, "")
    assert err.startswith("error: got --gpus 'T4,K80', expected names among T4, A100, A30, A10, AGX Orin, L4")
    with pytest.raises(ConfigError, match="got gpus=7, expected text such as 'T4,L4'"):
        library.Estimate(gpus=7)


def test_sizes_that_are_missing(calib8: Shell, tmp_path: Path) -> None:
    image = tiny_convnet()
    image.graph.inputs[0].shape = ir.Shape(("batch", 3, "height", "width"))
    path = save(image, tmp_path / "image.onnx")
    code, out, err = calib8("estimate", path, "--gpus", "T4")
    assert (code, out) == (2, "")
    assert "no sizes for 'height', 'width' of image" in err
    assert "Pass --shapes, like image:" in err


def test_shapes_that_do_not_fit(model: Path) -> None:
    with pytest.raises(ProfileError, match="goes up to 17, but the model's tables hold only 16"):
        library.estimate(model, library.Estimate(shapes="input_ids:1x4:2x4:8x17"))
    with pytest.raises(ProfileError, match="expected for example input_ids:1x1:8x64:64x384"):
        library.Estimate(shapes="input_ids")


def test_a_quantised_model_is_no_model_to_estimate(calib8: Shell, model: Path, tmp_path: Path) -> None:
    loaded = library.load(model)
    ranges = library.calibrate(loaded, [token_feeds(4, 3, seed=seed) for seed in range(3)])
    quantised = save(library.quantize(loaded, ranges, library.Int8(min_sqnr_db=0)), tmp_path / "int8.onnx")
    code, _, err = calib8("estimate", quantised)
    assert code == 2
    assert "the model was quantised by calib8 already" in err


LAYER = encoder(layers=1)
FORMS = {"fp16": set(), "int8": {f"layer0.{name}" for name in ("q", "k", "v", "up", "down")}}


@cache
def _times(batch: int, length: int, form: str) -> dict[str, float]:
    shapes = shapes_for(LAYER, dict.fromkeys(("input_ids", "attention_mask"), (batch, length)))
    kernels = kernels_of(LAYER, shapes, FORMS[form])
    return {gpu.name: sum(milliseconds(kernel, gpu) for kernel in kernels) for gpu in GPUS}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.integers(1, 500), st.integers(0, 9), st.integers(0, 12), st.sampled_from(sorted(FORMS)))
def test_more_samples_or_longer_ones_never_take_less(
    batch: int, length: int, more: int, longer: int, form: str
) -> None:
    one, other = _times(batch, length, form), _times(batch + more, length + longer, form)
    assert all(other[gpu] >= one[gpu] for gpu in one)
