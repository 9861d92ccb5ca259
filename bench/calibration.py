"""What calibration costs: user CPU, wall time and peak memory against a plain FP32 pass over the same batches.

    python bench/calibration.py models/all-mpnet-base-v2 sentences.csv [--sizes 128,512] [--rounds 3] [-o result.json]

Rows, each in a process of its own, by turns, medians of the rounds:
plain        ONNX Runtime runs the model from its file on the batches that calib8 makes. The reference.
default      calib8's pass with every statistic that the default recipe needs: ranges, and sampled rows of each tensor.
minmax …     the pass of each observer of `calib8 calibrate`.
ort …        ONNX Runtime's quantize_static (calibration and quantisation), one sentence a batch without padding.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np

from calib8.calibration.collect import collect
from calib8.calibration.observers import observer_for
from calib8.data.sources import NpyFolder
from calib8.data.text import TextTokenizer
from calib8.files import write_json
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load
from calib8.models.sentence import token_arrays
from calib8.passes.prepare import prepare
from calib8.planning.solve import ROWS
from calib8.progress import Quiet
from calib8.report.report import this_machine
from calib8.verification.pairs import read_pairs

OBSERVERS = ("minmax", "percentile", "mse", "entropy")
ORT = {"ort minmax": "MinMax"}  # its entropy and percentile crash on sentences of unequal lengths


def main() -> None:
    """Measure, print and keep; with ``--row`` be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with model.onnx and its tokenizer")
    parser.add_argument("sentences", type=Path, help="CSV of sentence pairs")
    parser.add_argument("--sizes", default="128,512", help="numbers of sentences")
    parser.add_argument("--rows", default=f"plain,default,{','.join(OBSERVERS)},{','.join(ORT)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.row:
        return row(options.row, options.folder / "model.onnx", options.sentences)
    sizes = {int(size): measured(options, int(size)) for size in options.sizes.split(",")}
    result = {
        "command": f"python bench/calibration.py {options.folder.name} {options.sentences.name} "
        f"--sizes {options.sizes} --rounds {options.rounds}",
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "sizes": sizes,
    }
    if options.output is not None:
        write_json(options.output, result)
    return None


def measured(options: argparse.Namespace, size: int) -> dict[str, dict[str, float]]:
    """Every row on ``size`` sentences."""
    pairs = read_pairs(options.sentences)
    texts = list(dict.fromkeys(text for first, second, _ in pairs for text in (first, second)))
    chosen = np.random.default_rng(0).choice(len(texts), size, replace=len(texts) < size)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in options.rows.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = TextTokenizer(options.folder, 384)
        arrays = token_arrays(
            tokenizer, tokenizer.tokens([texts[number] for number in chosen]), ("input_ids", "attention_mask")
        )
        for name, array in arrays.items():
            np.save(Path(folder) / f"{name}.npy", array)
        write_batches(options.folder / "model.onnx", Path(folder))
        for _ in range(options.rounds):
            for name, seen in taken.items():
                seen.append(process(options.folder, Path(folder), name))
    rows = {name: {key: statistics.median(one[key] for one in seen) for key in seen[0]} for name, seen in taken.items()}
    for name, facts in rows.items():
        for key in ("user_s", "wall_s"):
            facts[f"{key}_ratio"] = round(facts[key] / rows["plain"][key], 2)
        facts["gib_beyond_plain"] = round(facts["peak_gib"] - rows["plain"]["peak_gib"], 2)
        print(size, name, facts, flush=True)
    return rows


def write_batches(path: Path, data: Path) -> None:
    """The batches that calib8 makes, as (samples, length), for ``plain``."""
    dataset = dataset_for(prepare(load(path)), NpyFolder(data), Quiet())
    batches = [(rows.tolist(), arrays["input_ids"].shape[1]) for rows, arrays in dataset.batches()]
    (data / "batches.json").write_text(json.dumps(batches))


def process(folder: Path, data: Path, name: str) -> dict[str, float]:
    """One row in a process of its own: what it used from start to end, imports included."""
    started = time.perf_counter()
    command = [sys.executable, __file__, str(folder), str(data), "--row", name]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{name} ended with exit code {child.returncode}")
    return {
        "user_s": usage.ru_utime,
        "wall_s": time.perf_counter() - started,
        "peak_gib": usage.ru_maxrss / 2**20,
    }


def row(name: str, path: Path, data: Path) -> None:
    """What one of the processes does."""
    work: dict[str, Callable[[], object]] = {"plain": lambda: plain(path, data), "default": lambda: calib8(path, data)}
    work |= {observer: lambda observer=observer: calib8(path, data, observer) for observer in OBSERVERS}
    work |= {title: lambda method=method: onnxruntime(path, data, method) for title, method in ORT.items()}
    work[name]()


def plain(path: Path, data: Path) -> None:
    """A forward pass, and nothing else."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    specs = [entry.name for entry in session.get_inputs()]
    whole = {name: np.load(data / f"{name}.npy", allow_pickle=False) for name in specs}
    for rows, length in json.loads((data / "batches.json").read_text()):
        session.run(None, {name: array[rows][:, :length] for name, array in whole.items()})


def calib8(path: Path, data: Path, observer: str | None = None) -> None:
    """The pass, and what the observer makes of it."""
    model = prepare(load(path))
    dataset = dataset_for(model, NpyFolder(data), Quiet())
    chosen = observer_for(observer or "minmax", 99.99)
    found = collect(model, dataset, Quiet(), sample=0 if observer else ROWS, histograms=chosen.histogram)
    for seen in found.values():
        chosen.amax(seen)


def onnxruntime(path: Path, data: Path, method: str) -> None:
    """``quantize_static`` as it is documented for transformers: MatMul, per channel, Q/DQ."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    arrays = {file.stem: np.load(file, allow_pickle=False) for file in data.glob("*.npy")}
    lengths = arrays["attention_mask"].sum(axis=1)
    sentences = iter(
        [{name: array[row : row + 1, :length] for name, array in arrays.items()} for row, length in enumerate(lengths)]
    )

    class Reader:
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(sentences, None)

    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            path, Path(folder) / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["MatMul"], calibrate_method=getattr(CalibrationMethod, method),
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip


if __name__ == "__main__":
    main()
