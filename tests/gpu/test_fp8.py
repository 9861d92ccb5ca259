"""FP8 on the GPU: built, planned in FP8, and as close to the model as the CPU says."""

from pathlib import Path

import pytest
from engines import build, write_encoder

import calib8
from calib8.engine.sidecar import describe_engine
from calib8.engine.targets import multiplies
from calib8.gpu.hardware import gpus
from calib8.precision import FP8

pytest.importorskip("tensorrt", reason="needs pip install tensorrt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = gpus()[0].target
    if not multiplies(target, FP8):
        pytest.skip(f"{target} has no units for FP8: they came with sm89")
    folder = tmp_path_factory.mktemp("fp8")
    model = calib8.load(write_encoder(folder))
    ranges = calib8.calibrate(model, folder / "data.npz")
    calib8.save(calib8.quantize(model, ranges, calib8.Fp8(), data=folder / "data.npz"), folder / "fp8.onnx")
    build(folder / "fp8.onnx", folder / "fp8.engine")
    return folder


def test_every_op_multiplies_fp8(folder: Path, measured) -> None:
    sidecar = describe_engine(folder / "fp8.engine")
    measured(f"tiny encoder: {sidecar.plan.describe()}")
    assert (sidecar.precision, sidecar.plan.precision) == ("fp8", "fp8")
    assert (sidecar.plan.covered, sidecar.plan.expected) == (6, 6)


def test_it_computes_what_the_cpu_does_from_the_same_codes(folder: Path, measured) -> None:
    found = calib8.compare_on_gpu(folder / "model.onnx", folder / "fp8.engine", folder / "data.npz")
    measured(f"tiny encoder in FP8: cosine to FP32 {found.accuracy.cosine_mean:.5f}")
    assert found.accuracy.cosine_mean > 0.998
    assert found.against_int8 is not None  # the same codes on the CPU
    assert found.against_int8.cosine_mean > 0.9995


def test_values_beyond_the_range_saturate(folder: Path, measured) -> None:
    """E4M3 has NaN where others have infinity: a Q that did not clamp would ruin the whole row."""
    model = calib8.load(folder / "model.onnx")
    ranges = calib8.calibrate(model, folder / "data.npz")
    halved = {name: seen.model_copy(update={"amax": seen.amax / 2}) for name, seen in ranges.tensors.items()}
    short = ranges.model_copy(update={"tensors": halved})
    clipping = calib8.save(calib8.quantize(model, short, calib8.Fp8()), folder / "short.onnx")
    found = calib8.verify(clipping, build(clipping, folder / "short.engine"), folder / "data.npz")
    measured(f"tiny encoder in FP8 that clips, GPU to CPU: cosine {found.cosine_mean:.5f}")
    assert found.cosine_min > 0.999
