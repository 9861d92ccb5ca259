"""TensorRT 10's calibrators on a small CNN, and calib8's own caches in their place."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import calib8
from calib8.caches.cache import CALIBRATORS, Cache, version_of
from calib8.caches.record import record_path
from calib8.engine.calibrator import cache_header
from calib8.engine.sidecar import describe_engine
from calib8.graph.builder import GraphBuilder
from calib8.testing import outputs_of

trt = pytest.importorskip("tensorrt", reason="needs pip install 'tensorrt<11'")
pytestmark = pytest.mark.skipif(
    not hasattr(trt, "IInt8MinMaxCalibrator"), reason=f"TensorRT {trt.__version__} has no calibrators: 10 has"
)
#: What TensorRT says of a tensor that a cache lacks.
MISSING = "Missing scale"
#: In FP32, since TF32 would change what calibration sees.
QUICK = {"family": "tensorrt", "optimization_level": 0, "tf32": False, "keep_timings": False}


def cnn() -> ir.Model:
    """``x`` [batch, 3, 32, 32] -> Conv, Relu, Conv, + (residual), Relu, Conv, mean -> ``y`` [batch, 8, 1, 1].

    TensorRT's parser has nothing to add to it: no constant is given axes.
    """
    g = GraphBuilder()
    x = g.input("x", ir.DataType.FLOAT, "batch", 3, 32, 32)
    first = g.op("Relu", g.op("Conv", x, g.weight("w1", 32, 3, 3, 3), name="conv1", pads=[1, 1, 1, 1]), name="relu1")
    second = g.op("Conv", first, g.weight("w2", 32, 32, 3, 3), name="conv2", pads=[1, 1, 1, 1])
    both = g.op("Relu", g.op("Add", second, first, name="both"), name="relu2")
    return g.model(y=g.op("GlobalAveragePool", g.op("Conv", both, g.weight("w3", 8, 32, 1, 1), name="conv3")))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    ir.save(cnn(), tmp_path / "model.onnx")
    images = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images)
    return tmp_path


def built(work: Path, notes, *, calibrator: str = "minmax", data: bool = True, **options) -> Path:
    config = calib8.Build(
        calibrator=calibrator, calibration_batch=4, shapes="x:1x3x32x32:4x3x32x32:8x3x32x32", **QUICK, **options
    )
    given = work / "data.npz" if data else None
    (engine,) = calib8.build(work / "model.onnx", work / "x.engine", config, data=given, progress=notes)
    return engine.path


def own_cache(work: Path, tensors: str, observer: str = "minmax") -> Path:
    """A cache of calib8's own calibration, for the TensorRT that is here."""
    path = work / f"{tensors}.cache"
    calib8.calibrate(
        work / "model.onnx",
        work / "data.npz",
        calib8.Calibrate(tensors=tensors, observer=observer),
        cache=path,
        cache_version=".".join(trt.__version__.split(".")[:3]),
    )
    return path


@pytest.mark.parametrize(("calibrator", "observer"), [("minmax", "minmax"), ("entropy2", "entropy")])
def test_its_cache_is_written_used_again_and_set_against_calib8s(
    calibrator: str, observer: str, work: Path, notes, measured
) -> None:
    cache = work / "theirs.cache"
    built(work, notes, calibrator=calibrator, calibration_cache=cache)
    assert [step for step in notes.steps if step[0] == "calibrate"] == [("calibrate", n, 4) for n in range(5)]
    theirs = Cache.load(cache)
    assert theirs.header == cache_header(trt.__version__, calibrator)
    assert theirs.header == f"TRT-{version_of('.'.join(trt.__version__.split('.')[:3]))}-{CALIBRATORS[calibrator]}"

    written = cache.read_bytes()
    notes.steps.clear()
    (work / "x.engine").unlink()
    built(work, notes, calibrator=calibrator, calibration_cache=cache, data=False)
    assert not [step for step in notes.steps if step[0] == "calibrate"]
    assert cache.read_bytes() == written

    ours = Cache.load(own_cache(work, "all", observer)).scales
    assert set(ours) == set(theirs.scales)
    ratios = {name: theirs.scales[name] / scale for name, scale in ours.items()}
    measured(f"{calibrator}: scales of TensorRT by calib8's, tensor by tensor: {json.dumps(ratios)}")
    if calibrator == "minmax":
        assert list(ratios.values()) == pytest.approx([1] * len(ratios), rel=1e-4)
    else:  # another histogram, whose threshold may lie elsewhere: up to 6 % apart on an H200 with TensorRT 10.6
        assert all(0.9 < ratio < 1.1 for ratio in ratios.values())


def test_a_cache_of_all_tensors_lacks_nothing_that_tensorrt_asks_for(work: Path, notes) -> None:
    logs = {}
    for tensors in ("weighted", "all"):
        cache, log = own_cache(work, tensors), work / f"{tensors}.log"
        before = cache.read_bytes()
        built(work, notes, calibration_cache=cache, data=False, log=log)
        assert cache.read_bytes() == before
        logs[tensors] = [line for line in log.read_text().splitlines() if MISSING in line]
    assert logs["all"] == []
    assert logs["weighted"], "TensorRT no longer says what a cache lacks: find its new words"
    assert not [step for step in notes.steps if step[0] == "calibrate"]


def test_the_engine_of_an_own_cache_computes_what_the_model_does(work: Path, notes, measured) -> None:
    cache = own_cache(work, "all")
    engine = built(work, notes, calibration_cache=cache, data=False)
    images = np.load(work / "data.npz", allow_pickle=False)["x"][:8]
    (expected,) = outputs_of(cnn(), {"x": images}).values()
    with calib8.open(engine) as runtime:
        got = runtime(x=images)["y"].astype(np.float32)
    cosine = float((got * expected).sum() / np.linalg.norm(got) / np.linalg.norm(expected))
    plan = describe_engine(engine).plan
    measured(f"an own cache of all tensors: {plan.describe()}, cosine {cosine:.5f}")
    assert cosine > 0.99
    assert record_path(cache).is_file()
