"""Sentences per second, text in and vectors out: calib8's INT8 on the CPU and other ways to run the same model.

    python bench/throughput.py models/all-mpnet-base-v2 build/mpnet/model.int8.onnx --pytorch FOLDER \
        --texts dev.csv --calibration calibration.txt --with sentence-transformers=PYTHON --with optimum-intel=PYTHON \
        --with optimum-onnx=PYTHON --results bench/results/DATE-throughput.json

``--texts`` is a CSV without a header, sentences in its first two columns; 20 of them make a long text. ``--pytorch`` is
the model as sentence-transformers loads it. Every row runs in a process of its own (see bench/encoders.py), and rounds
go by turns over them, so that what else the machine does strikes all alike. Medians are over rounds, ratios between
medians of one run. Accuracy is that of the vectors that were timed: the cosine to ONNX Runtime's FP32. ``--results`` is
a .json; the table as .txt and (with ``calib8[bench]``) a plot as .svg go beside it.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import calib8
from calib8.files import write_json, write_text
from calib8.numerics import cosine_rows
from calib8.report.report import this_machine
from calib8.telemetry import silence
from calib8.text.tokenizer import read_sentences
from encoders import ENCODERS

#: What ratios and cosines are to.
REFERENCE = "ort-fp32"
OURS = ("calib8", "calib8-tuned")
#: Sentences in a long text: about 330 tokens.
IN_LONG = 20
Row = dict[str, Any]
#: What each row took for each set of texts, round by round.
Taken = dict[tuple[str, str], list[Row]]


class Peer:
    """One row's process."""

    def __init__(self, name: str, python: str, settings: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(calib8.__file__).parent.parent)}
        if python != sys.executable:
            del environment["PYTHONPATH"]
        script = Path(__file__).with_name("encoders.py")
        self._log = settings.with_name(f"{name}.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, str(script), name, str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        )
        try:
            self.facts = self._answer()
        except RuntimeError:
            self.close()
            raise

    def measured(self, texts: str) -> Row:
        """How long embedding the set called ``texts`` took: ``seconds``, and ``cpu_seconds`` of all its threads."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{texts}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = Path(self._log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(said[-1][:200] if said else "no word")
        answer: Row = json.loads(line)
        return answer


def main() -> None:
    """Measure, print and keep."""
    silence()  # the tools that it starts, too
    options = _options()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    texts = _texts(options.texts, options.limit)
    settings = {
        "fp32": str(options.fp32.resolve()),
        "int8": str(options.int8.resolve()),
        "pytorch": str(options.pytorch.resolve()),
        "work": str(work),
        "calibration": read_sentences(options.calibration),
        "texts": texts,
    }
    write_json(work / "settings.json", settings)
    pythons = {"calib8": sys.executable} | dict(item.split("=", 1) for item in options.pythons)
    peers, rows = _opened(options.only or list(ENCODERS), pythons, work / "settings.json")
    taken = _rounds(peers, list(texts), options.rounds)
    for name, peer in peers.items():
        peer.close()
        rows[name] = peer.facts | _measured(name, taken, texts, work)
    result = {
        "command": " ".join(["python", *(without_folder(part) for part in sys.argv)]),
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "rounds": options.rounds,
        "texts": {name: len(found) for name, found in texts.items()},
        "rows": {name: rows[name] for name in ENCODERS if name in rows},
    }
    print(table(result))
    if options.results:
        write_json(options.results, result)
        write_text(options.results.with_suffix(".txt"), table(result) + "\n")
        plot(result, options.results.with_suffix(".svg"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("fp32", type=Path, help="folder with model.onnx and its tokenizer")
    parser.add_argument("int8", type=Path, help="calib8's INT8 model")
    parser.add_argument("--pytorch", type=Path, required=True, help="folder that sentence-transformers loads")
    parser.add_argument("--texts", type=Path, required=True, help="CSV: sentence 1, sentence 2, ...")
    parser.add_argument("--calibration", type=Path, required=True, help="sentences for tools that calibrate")
    parser.add_argument("--with", dest="pythons", action="append", default=[], metavar="PACKAGE=PYTHON")
    parser.add_argument("--only", action="append", choices=list(ENCODERS), help="rows to measure; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="measure on about that many sentences, spread over the file")
    parser.add_argument("--work", type=Path, default=Path("build/throughput"), help="where tools keep their models")
    parser.add_argument("--results", type=Path)
    return parser.parse_args()


def _texts(path: Path, limit: int | None) -> dict[str, list[str]]:
    """The sentences, each once, and long texts made of them."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    sentences = list(dict.fromkeys(text for column in (0, 1) for text in (row[column] for row in rows)))
    sentences = sentences[:: max(1, len(sentences) // (limit or len(sentences)))]  # the file goes from genre to genre
    long = [" ".join(sentences[start : start + IN_LONG]) for start in range(0, len(sentences), IN_LONG)]
    return {"short": sentences, "long": long}


def _opened(names: Sequence[str], pythons: dict[str, str], settings: Path) -> tuple[dict[str, Peer], dict[str, Row]]:
    """The rows that run, and why the others do not."""
    peers: dict[str, Peer] = {}
    absent: dict[str, Row] = {}
    for name in names:
        package = ENCODERS[name].package
        if package not in pythons:
            absent[name] = {"absent": f"no Python that has it was named (--with {package}=PYTHON)"}
            continue
        try:
            peers[name] = Peer(name, pythons[package], settings)
        except (OSError, RuntimeError) as error:
            absent[name] = {"absent": without_folder(str(error))}
        print(f"{name}: {'ready' if name in peers else absent[name]['absent']}", file=sys.stderr, flush=True)
    return peers, absent


def _rounds(peers: dict[str, Peer], texts: Sequence[str], rounds: int) -> Taken:
    taken: Taken = {(name, kind): [] for name in peers for kind in texts}
    for _ in range(rounds):
        for kind in texts:
            for name, peer in peers.items():
                taken[name, kind].append(peer.measured(kind))
    return taken


def _measured(name: str, taken: Taken, texts: dict[str, list[str]], work: Path) -> dict[str, Row]:
    """For each set of texts: rate, ratio to the reference, and cosine to it."""
    seconds = {row: [one["seconds"] for one in rounds] for row, rounds in taken.items()}
    found = {}
    for kind, given in texts.items():
        own = statistics.median(seconds[name, kind])
        found[kind] = {
            "per_second": round(len(given) / own, 2),
            "rounds_s": [round(one, 3) for one in seconds[name, kind]],
            "cpu_s": round(statistics.median(one["cpu_seconds"] for one in taken[name, kind]), 3),
        }
        if (REFERENCE, kind) in seconds:
            vectors, expected = (np.load(work / f"{row}-{kind}.npy") for row in (name, REFERENCE))
            cosines = cosine_rows(vectors, expected)
            found[kind] |= {
                "ratio": round(statistics.median(seconds[REFERENCE, kind]) / own, 3),
                "cosine_mean": round(float(cosines.mean()), 5),
                "cosine_p1": round(float(np.percentile(cosines, 1)), 5),
            }
    return found


def table(result: Row) -> str:
    """The rows as text."""
    machine, texts = result["machine"], result["texts"]
    versions: dict[str, dict[str, None]] = {}  # rows may have other ones of a package
    for row in result["rows"].values():
        for package, number in row.get("versions", {}).items():
            versions.setdefault(package, {})[number] = None
    lines = [
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}; "
        f"medians of {result['rounds']} rounds by turns; {texts['short']} sentences, {texts['long']} long texts",
        ", ".join(f"{package} {' and '.join(numbers)}" for package, numbers in versions.items()),
        f"$ {result['command']}",
        "",
        f"{'':40}" + "".join(f"{f'{kind} /s':>11}{'ratio':>8}{'cos mean':>10}{'cos p1':>9}" for kind in texts),
    ]
    for name, row in result["rows"].items():
        cells = row.get("absent") or "".join(_cells(row[kind]) for kind in texts)
        lines.append(f"{ENCODERS[name].title:40}{cells}")
    measured = {name: row for name, row in result["rows"].items() if "absent" not in row}
    for own, mine in measured.items():
        for name, row in measured.items() if own in OURS else ():
            if name not in OURS:
                ratios = (f"{mine[kind]['per_second'] / row[kind]['per_second']:.2f} ({kind})" for kind in texts)
                lines.append(f"{ENCODERS[own].title} / {ENCODERS[name].title}: {', '.join(ratios)}")
    return "\n".join(lines)


def _cells(cell: Row) -> str:
    if "ratio" not in cell:
        return f"{cell['per_second']:11.1f}{'':27}"
    return f"{cell['per_second']:11.1f}{cell['ratio']:8.2f}{cell['cosine_mean']:10.4f}{cell['cosine_p1']:9.4f}"


def plot(result: Row, path: Path) -> None:
    """Bars of every row's rate; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'calib8[bench]')", file=sys.stderr)
        return
    rows = {name: row for name, row in reversed(result["rows"].items()) if "short" in row}
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("short", "long"), strict=True):
        rates = [row[kind]["per_second"] for row in rows.values()]
        colours = ["tab:green" if name in OURS else "tab:grey" for name in rows]
        bars = axes.barh([ENCODERS[name].title for name in rows], rates, color=colours)
        axes.bar_label(bars, fmt="%.3g", padding=3)
        axes.set_title(f"{kind} texts per second")
        axes.margins(x=0.15)
    figure.savefig(path)


def without_folder(text: str) -> str:
    """Paths that leave the project cut to their last part: where things are on this machine is nobody's business."""
    head, equals, tail = text.rpartition("=")
    return f"{head}{equals}{Path(tail).name}" if tail.startswith(("/", "..")) else text


if __name__ == "__main__":
    main()
