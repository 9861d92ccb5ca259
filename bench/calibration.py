"""What calibration costs: user CPU, wall time and peak memory against a plain FP32 pass over the same batches.

    python bench/calibration.py models/all-mpnet-base-v2 sentences.csv --sizes 128,512 --results DATE-calibration.json

Three curves may be asked for: ``--sizes`` (numbers of sentences), ``--lengths`` (sentences of that many tokens) and
``--layers`` (the model cut behind that many layers); the last two on as many sentences as ``--samples`` says.

Rows, each in a process of its own, by turns, medians of the rounds; what a row took is that of the whole process:
plain            ONNX Runtime runs the model from its file on the batches that calib8 makes. The reference.
default          calib8's pass with every statistic that the default recipe needs: ranges, and rows of each tensor.
openvino         the same pass in OpenVINO, and how far its ranges are from those of ``default``, relative to each amax.
minmax …         the pass of each observer of `calib8 calibrate`, and the ranges that it finds.
calibrate        the command `calib8 calibrate`, min/max, from its first import to its file of ranges.
quantise NAME    data in, INT8 model out, by a row of bench/quantisers.py, of calib8 or another tool (``--with``).

``--cores 2`` gives each process two cores of its own and lets as many rows run at once as there are such pairs.
``--results`` is a .json; the table as .txt and (with ``calib8[bench]``) the curves as .svg go beside it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from calib8.data.sources import NpyFolder
from calib8.files import write_json, write_text
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load, save
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.report.report import this_machine
from calib8.telemetry import silence
from calib8.text.sentence import token_arrays
from calib8.text.tokenizer import TextTokenizer
from calib8.verification.pairs import read_pairs
from quantisers import QUANTISERS
from throughput import without_folder

PASSES = ("plain", "default", "openvino", "minmax", "percentile", "mse", "entropy", "calibrate")
QUANTISE = "quantise "
CURVES = {"sizes": "sentences", "lengths": "tokens", "layers": "layers"}
#: Memory that another tool may take.
MOST_GIB = 20
Row = dict[str, Any]


def main() -> None:
    """Measure, print and keep."""
    silence()  # the tools that it starts, too
    options = _options()
    cases = [(curve, int(value)) for curve in CURVES for value in (getattr(options, curve) or "").split(",") if value]
    result: Row = {
        "command": " ".join(["python", *(without_folder(part) for part in sys.argv)]),
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "rounds": options.rounds,
        "note": options.note,
        "cases": [],
    }
    for curve, value in cases:
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own: the peak of those measured begins with what their parent holds.
            with ProcessPoolExecutor(1, get_context("spawn")) as writer:
                writer.submit(write_case, options, Path(folder), curve, value).result()
            rows = measured(options, Path(folder))
        result["cases"].append({"curve": curve, "value": value, "rows": rows})
        print(table(result).rpartition("\n\n")[2], flush=True)
        if options.results:
            write_json(options.results, result)
            write_text(options.results.with_suffix(".txt"), table(result) + "\n")
    if options.results:
        plot(result, options.results.with_suffix(".svg"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with model.onnx and its tokenizer")
    parser.add_argument("sentences", type=Path, nargs="?", help="CSV of sentence pairs")
    for curve in CURVES:
        parser.add_argument(f"--{curve}", metavar="N,N")
    parser.add_argument("--samples", type=int, default=128, help="sentences for --lengths and --layers")
    parser.add_argument("--rows", default="plain,default", help=f"of {', '.join(PASSES)}, and '{QUANTISE}NAME'")
    parser.add_argument("--with", dest="pythons", action="append", default=[], metavar="PACKAGE=PYTHON")
    parser.add_argument("--cores", type=int, help="cores for each process; default: all, one process at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="kept with the results")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    if "plain" not in options.rows.split(","):
        parser.error("--rows: plain is what all others are measured against")
    if options.cores is not None and not 1 <= options.cores <= len(os.sched_getaffinity(0)):
        parser.error(f"--cores: 1 to {len(os.sched_getaffinity(0))} here, got {options.cores}")
    return options


def write_case(options: argparse.Namespace, folder: Path, curve: str, value: int) -> None:
    """The model, the data and the batches of a point of a curve: all that its processes read."""
    for file in options.folder.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    shutil.copytree(options.folder / "1_Pooling", folder / "1_Pooling")
    if curve == "layers":
        (folder / "model.onnx").unlink()
        save(cut_behind(load(options.folder / "model.onnx"), value), folder / "model.onnx")
    pairs = read_pairs(options.sentences)
    texts = list(dict.fromkeys(text for first, second, _ in pairs for text in (first, second)))
    tokenizer = TextTokenizer(options.folder, 384)
    if curve == "lengths":
        tokens = [_of_length(value, tokenizer.tokens(texts[start : start + value])) for start in range(options.samples)]
    else:
        size = value if curve == "sizes" else options.samples
        chosen = np.random.default_rng(0).choice(len(texts), size, replace=len(texts) < size)
        tokens = tokenizer.tokens([texts[number] for number in chosen])
    arrays = token_arrays(tokenizer, tokens, ("input_ids", "attention_mask"))
    (folder / "data").mkdir()
    for name, array in arrays.items():
        np.save(folder / "data" / f"{name}.npy", array)
    np.savez(folder / "calibration.npz", **arrays)  # type: ignore[arg-type]
    dataset = dataset_for(prepare(load(folder / "model.onnx")), NpyFolder(folder / "data"), Quiet())
    batches = [(rows.tolist(), batch["input_ids"].shape[1]) for rows, batch in dataset.batches()]
    (folder / "batches.json").write_text(json.dumps(batches))


def _of_length(length: int, sentences: Sequence[Sequence[int]]) -> list[int]:
    """Exactly ``length`` tokens out of sentences: their own, between the first and the last special one."""
    inner = [token for sentence in sentences for token in sentence[1:-1]]
    return [sentences[0][0], *inner[: length - 2], sentences[0][-1]]


def cut_behind(model: ir.Model, layers: int) -> ir.Model:
    """``model`` up to its layer of that number; two LayerNormalizations are a layer, and one is before the first."""
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    last = norms[2 * layers].outputs[0]
    model.graph.outputs.clear()
    model.graph.outputs.append(last)
    RemoveUnusedNodesPass()(model)
    return model


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Row]:
    """Every row on the case in ``folder``."""
    names, pythons = options.rows.split(","), dict(item.split("=", 1) for item in options.pythons)
    own = sorted(os.sched_getaffinity(0))
    each = options.cores or len(own)
    idle: SimpleQueue[list[int]] = SimpleQueue()
    for start in range(0, len(own) - each + 1, each):
        idle.put(own[start : start + each])
    jobs = [name for _ in range(options.rounds) for name in names]
    with ThreadPoolExecutor(max(1, idle.qsize())) as pool:
        done = list(pool.map(lambda name: _on_cores(idle, partial(process, name, folder, pythons)), jobs))
    taken = {name: [facts for job, facts in zip(jobs, done, strict=True) if job == name] for name in names}
    rows = {name: {key: statistics.median(one[key] for one in seen) for key in seen[0]} for name, seen in taken.items()}
    if {"default", "openvino"} <= set(rows):
        rows["openvino"]["range_difference"] = range_difference(folder)
    for facts in rows.values():
        for key in ("user_s", "wall_s"):
            facts[f"{key}_ratio"] = round(facts[key] / rows["plain"][key], 3)
        facts["gib_beyond_plain"] = round(facts["peak_gib"] - rows["plain"]["peak_gib"], 3)
    return rows


def _on_cores(idle: "SimpleQueue[list[int]]", work: Callable[[], Row]) -> Row:
    """Do ``work`` on cores of its own: processes inherit those of the thread that starts them."""
    cores = idle.get()
    try:
        os.sched_setaffinity(0, cores)
        return work()
    finally:
        idle.put(cores)


def process(name: str, folder: Path, pythons: dict[str, str]) -> Row:
    """One row in a process of its own: what it used from start to end, imports included."""
    script = "plain_pass.py" if name == "plain" else "observed_pass.py"
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder), name]
    with tempfile.TemporaryDirectory() as work:
        if name == "calibrate":
            model, ranges = str(folder / "model.onnx"), str(Path(work) / "ranges.json")
            command = [sys.executable, "-m", "calib8", name, model, "--data", str(folder / "data"), "-o", ranges]
        elif name.startswith(QUANTISE):
            tool = name.removeprefix(QUANTISE)
            python = pythons.get(QUANTISERS[tool].package, sys.executable)
            files = (folder / "model.onnx", folder / "calibration.npz", Path(work) / "int8.onnx")
            command = [python, str(Path(__file__).with_name("quantisers.py")), tool, *map(str, files), str(MOST_GIB)]
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert child.stderr is not None
        said = child.stderr.read().decode(errors="replace").strip()
        _, status, usage = os.wait4(child.pid, 0)
        child.stderr.close()
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if child.returncode:
            sys.exit(f"{name} ended with exit code {child.returncode}: {said[-500:]}")
        if name.startswith(QUANTISE) and not (Path(work) / "int8.onnx").is_file():
            sys.exit(f"{name} made no model: {(Path(work) / 'int8.json').read_text(encoding='utf-8')}")
    return {
        "user_s": round(usage.ru_utime, 3),
        "system_s": round(usage.ru_stime, 3),
        "wall_s": round(wall, 3),
        "peak_gib": round(usage.ru_maxrss / 2**20, 4),
    }


def range_difference(folder: Path) -> float:
    """The largest difference between the ranges of the rows ``default`` and ``openvino``, relative to the amax."""
    here, there = (json.loads((folder / f"{row}.json").read_text()) for row in ("default", "openvino"))
    return max(float(np.abs(np.subtract(here[name], there[name])).max() / np.abs(here[name]).max()) for name in here)


def table(result: Row) -> str:
    """The rows as text."""
    machine = result["machine"]
    lines = [
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}; "
        f"medians of {result['rounds']}; ratios and GiB beyond are to the plain pass of the same case",
        *([result["note"]] if result["note"] else []),
        f"$ {result['command']}",
    ]
    for case in result["cases"]:
        title = f"{case['value']} {CURVES[case['curve']]}"
        lines += ["", f"{title:28}{'user s':>10}{'ratio':>8}{'wall s':>10}{'ratio':>8}{'GiB':>8}{'beyond':>9}"]
        for name, row in case["rows"].items():
            lines.append(
                f"{name:28}{row['user_s']:10.1f}{row['user_s_ratio']:8.2f}{row['wall_s']:10.1f}"
                f"{row['wall_s_ratio']:8.2f}{row['peak_gib']:8.2f}{row['gib_beyond_plain']:+9.2f}"
            )
            if "range_difference" in row:
                lines.append(f"{'':28}ranges within {row['range_difference']:.1e} of those of default")
    return "\n".join(lines)


def plot(result: Row, path: Path) -> None:
    """Cost against each curve's variable; nothing where matplotlib is not installed, or a curve has one point."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'calib8[bench]')", file=sys.stderr)
        return
    points = {curve: [case for case in result["cases"] if case["curve"] == curve] for curve in CURVES}
    curves = [curve for curve, cases in points.items() if len(cases) > 1]
    if not curves:
        return
    figure = Figure(figsize=(4 * len(curves), 6), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False)
    shown = (("user_s_ratio", "user CPU, times a plain pass"), ("peak_gib", "peak memory, GiB"))
    for column, curve in enumerate(curves):
        values = [case["value"] for case in points[curve]]
        for axes, (key, title) in zip(panels[:, column], shown, strict=True):
            for name in points[curve][0]["rows"]:
                axes.plot(values, [case["rows"][name][key] for case in points[curve]], marker="o", label=name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_xlabel(CURVES[curve])
            axes.set_ylim(bottom=0, top=1.08 * axes.get_ylim()[1])
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(title)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    figure.savefig(path)


if __name__ == "__main__":
    main()
