"""Models other than MPNet: two sentence encoders, converted for accuracy, and a text detector with default settings.

Fetched on the first run, cached by ``calib8 fetch`` from then on; without network the tests of what is missing skip.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import calib8
from calib8.caches.cache import Cache
from calib8.errors import FetchError, SetupError

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
TEXTS = ROOT / "examples" / "mpnet"
DETECTOR_CACHE = ROOT / "tests" / "engine" / "data" / "tensorrt-10.6" / "det-minmax.cache.gz"
SIZES = "x:1x3x32x32:1x3x480x480:4x3x960x960"
#: Weighted ops of each. They are to be as accurate as can be, as convolutions are anyway; the demo is to be fast.
ENCODERS = {"all-MiniLM-L6-v2": 36, "paraphrase-MiniLM-L3-v2": 18}
#: 62 Convs, and two ConvTransposes, which stay in float.
DETECTOR, CONVOLUTIONS = "PP-OCRv4-det", 64
#: Above it the detector sees text.
THRESHOLD = 0.3


def succeed(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def fetched() -> Callable[[str], Path]:
    def get(name: str) -> Path:
        try:
            return calib8.fetch(name, ROOT / "models" / name) / "model.onnx"
        except (FetchError, SetupError) as error:
            pytest.skip(f"{name} cannot be fetched here: {error}")

    return get


def convert(name: str, model: Path, held_out: Path, *options: str) -> dict:
    """The report, written whether or not a limit was missed: the tests below say which limits."""
    output = BUILD / name
    arguments = ("--data", f"{output / 'calib_data'}", "--held-out", f"{held_out}", "-o", f"{output}", *options)
    command = [sys.executable, "-m", "calib8", "convert", f"{model}", *arguments, "--target", "sm86", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), f"{command}\n{done.stdout}\n{done.stderr}"
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def assert_worth_shipping(report: dict, weighted: int) -> None:
    accuracy = report["accuracy"]
    assert report["weighted_ops"] == weighted
    assert report["int8_ops"] >= 0.9 * weighted
    (engine,) = report["engines"]
    assert engine["plan"]["covered"] == engine["plan"]["expected"] == report["int8_ops"]
    assert min(one["mean"] for one in accuracy["outputs"].values()) >= 0.995, f"measured: {accuracy}"


@pytest.mark.parametrize("name", ENCODERS)
def test_a_sentence_encoder(name: str, fetched: Callable[[str], Path]) -> None:
    model = fetched(name)
    data = str(BUILD / name / "calib_data")
    succeed("-m", "calib8", "prepare", str(TEXTS / "calibration.txt"), "--tokenizer", str(model.parent), "-o", data)
    report = convert(name, model, TEXTS / "held_out.txt", "--optimize", "accuracy")
    assert_worth_shipping(report, ENCODERS[name])
    vectors = [one for one in report["accuracy"]["outputs"].values() if one["kind"] == "vectors"]
    assert min(one["measures"]["same nearest neighbour"] for one in vectors) >= 0.9


@pytest.fixture(scope="module")
def detector(fetched: Callable[[str], Path]) -> tuple[Path, dict]:
    """The detector's FP32 model, and the report of its conversion."""
    pytest.importorskip("PIL", reason="the images are drawn with Pillow: pip install pillow")
    model = fetched(DETECTOR)
    succeed(str(ROOT / "examples" / "detector" / "make_images.py"), "--to", str(BUILD / DETECTOR))
    return model, convert(
        DETECTOR, model, BUILD / DETECTOR / "held_out.npz", "--optimize", "accuracy", "--shapes", SIZES
    )


def test_a_text_detector(detector: tuple[Path, dict]) -> None:
    _, report = detector
    assert_worth_shipping(report, CONVOLUTIONS)


def test_a_cache_for_the_detector_as_tensorrt_wrote_it(fetched: Callable[[str], Path], tmp_path: Path) -> None:
    """TensorRT 10.6's own cache of it, of other images, has the same tensors but for those that its parser added."""
    theirs = Cache.parse(gzip.decompress(DETECTOR_CACHE.read_bytes()).decode(), DETECTOR_CACHE.name)
    own = [name for name in theirs.scales if name.startswith("ONNXTRT_")]
    assert (len(theirs.scales), len(own)) == (637, 152)
    images = {"x": np.random.default_rng(0).normal(size=(2, 3, 96, 96)).astype(np.float32)}
    few = calib8.calibrate(fetched(DETECTOR), images)
    calib8.calibrate(fetched(DETECTOR), images, calib8.Calibrate(tensors="all"), cache=tmp_path / "all")
    ours = Cache.load(tmp_path / "all").scales
    assert set(ours) == set(theirs.scales) - set(own)
    assert len(few.tensors) == 59
    for name, amax in few.amax().items():  # ONNX Runtime fuses less where more is observed
        assert ours[name] * 127 == pytest.approx(amax, rel=1e-5)
    constants = [name for name in ours if name.removesuffix("_output") != name]
    assert len(constants) == 154
    for name in constants:
        assert ours[name] == pytest.approx(theirs.scales[name], rel=2**-23)


def test_the_detector_finds_the_same_text(detector: tuple[Path, dict]) -> None:
    model, _ = detector
    data = BUILD / DETECTOR / "held_out.npz"
    expected, got = (
        np.concatenate(list(calib8.run(path, data).values())) > THRESHOLD
        for path in (model, BUILD / DETECTOR / "model.int8.onnx")
    )
    assert expected.any()
    overlap = (expected & got).sum() / (expected | got).sum()
    assert overlap >= 0.95
