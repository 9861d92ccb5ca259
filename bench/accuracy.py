"""What is left of a model's accuracy after INT8, by calib8 and by other tools: same model, sentences and measure.

    python bench/accuracy.py models/all-mpnet-base-v2 --calibration train.csv --pairs dev.csv

Both files are CSV without a header: sentence 1, sentence 2, score. Every row is quantised in a process of its own (see
bench/quantisers.py), and the file that comes out is measured in ONNX Runtime on the CPU with calib8's own functions.
``--with PACKAGE=PYTHON`` names a Python that has onnx-neural-compressor or nvidia-modelopt; without, their rows say so.
Rows are kept in ``--results`` (.json, and the table as .txt); those that are there already are not run again.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import calib8
from calib8.engine.quantized import quantized_ops, require_exact
from calib8.errors import Calib8Error, ModelError
from calib8.files import read_json, sha256_file, write_json, write_text
from calib8.graph.io import load, stored_bytes
from calib8.graph.weighted import weighted_ops
from calib8.numerics import cosine_rows
from calib8.passes.prepare import prepare
from calib8.report.report import this_machine
from calib8.runtime.contract import contract_of
from calib8.runtime.open import open_artefact
from calib8.telemetry import silence
from calib8.text.sentence import Embeddings, SentenceEncoder, token_arrays
from calib8.text.tokenizer import TextTokenizer
from calib8.verification.metrics import neighbour_agreement, spearman
from calib8.verification.pairs import Pair, read_pairs
from quantisers import QUANTISERS, Quantiser

#: Ops that multiply integers, of models without Q/DQ, and which of their inputs is the weight.
INTEGER_OPS = {"MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3}
#: Packages that calib8's own Python has.
HERE = ("calib8", "onnxruntime")
#: Seconds after which a tool is given up.
LONGEST = 3 * 3600
HEAD = ["cos mean", "cos p1", "cos min", "same nb", "Spearman", "MB", "INT8 ops", "user s", "sys s", "GiB", "Q/DQ"]
NOTES = """\
cosines (mean, 1st percentile, minimum) to FP32; same nb: the nearest FP32 neighbour stays the same; MB: 10^6 bytes
INT8 ops: with a constant weight and computed in integers; user s, sys s, GiB: of the whole process, imports included
Q/DQ exact: symmetric int8 with constant scales, the only form that TensorRT computes as it stands; no engine was built
"""
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all rows have in common. ``folder`` holds ``model.onnx`` and what its tokenizer needs."""

    folder: Path
    calibration: tuple[str, ...]
    pairs: tuple[Pair, ...]
    gib: float
    pythons: dict[str, str]

    @property
    def model(self) -> Path:
        """The FP32 model."""
        return self.folder / "model.onnx"

    @cached_property
    def settings(self) -> Row:
        """What must be the same for rows to stand in one table."""
        return {
            "model": f"{self.folder.name}, SHA-256 {sha256_file(self.model)[:16]}",
            "calibration_sentences": len(self.calibration),
            "calibration": _digest(*self.calibration),
            "pairs": len(self.pairs),
            "evaluation": _digest(*(f"{pair}" for pair in self.pairs)),
        }

    @cached_property
    def reference(self) -> Embeddings:
        """FP32 embeddings of the evaluation sentences, first ones first."""
        return self.embed(self.model)

    def fp32(self) -> Row:
        """What INT8 starts from."""
        return {
            "spearman": self.rank(self.reference),
            "megabytes": round(stored_bytes(self.model) / 1e6, 1),
            "weighted_ops": len(weighted_ops(prepare(load(self.model)))),
        }

    def embed(self, model: Path) -> Embeddings:
        """What the model makes of the evaluation sentences."""
        sentences = [first for first, _, _ in self.pairs] + [second for _, second, _ in self.pairs]
        with open_artefact(model, "onnxruntime") as runtime:
            return SentenceEncoder(self.folder, runtime).embed(sentences)

    def rank(self, vectors: Embeddings) -> float:
        """100 x Spearman's correlation of cosine and score."""
        half = len(self.pairs)
        scores = np.array([score for _, _, score in self.pairs])
        return 100 * spearman(cosine_rows(vectors[:half], vectors[half:]), scores)

    def write_data(self, path: Path) -> None:
        """The calibration sentences as arrays, padded to the longest."""
        contract = contract_of(load(self.model))
        tokenizer = TextTokenizer(self.folder, contract.largest("input_ids", 1))
        arrays: dict[str, Any] = token_arrays(tokenizer, tokenizer.tokens(self.calibration), contract.names)
        np.savez(path, **arrays)

    def row(self, name: str, quantiser: Quantiser) -> Row:
        """Run and measure one row; what went wrong is a row too."""
        python = sys.executable if quantiser.package in HERE else self.pythons.get(quantiser.package)
        if python is None:
            return {"absent": f"not run: no Python that has it was named (--with {quantiser.package}=PYTHON)"}
        with tempfile.TemporaryDirectory() as folder:
            output, data = Path(folder) / "model.onnx", Path(folder) / "data.npz"
            self.write_data(data)
            model = self.model
            if python != sys.executable:  # some tools rewrite the model that they are given
                model = Path(shutil.copyfile(self.model, Path(folder) / "fp32.onnx"))
            script = Path(__file__).with_name("quantisers.py")
            command = [python, script, name, model, data, output, str(self.gib)]
            facts = _run([str(part) for part in command], output.with_suffix(".json"))
            if facts.keys() & {"failed", "absent"}:
                return facts
            try:
                return facts | self.measure(output)
            except Calib8Error as error:
                return facts | {"failed": _without_folders(str(error))}

    def measure(self, candidate: Path) -> Row:
        """The numbers of a quantised file."""
        model, vectors = load(candidate), self.embed(candidate)
        cosines = cosine_rows(self.reference, vectors)
        if not np.isfinite(cosines).all():
            raise ModelError("its embeddings hold NaN or infinity.")
        return {
            "cosine_mean": float(cosines.mean()),
            "cosine_p1": float(np.percentile(cosines, 1)),
            "cosine_min": float(cosines.min()),
            "neighbours": neighbour_agreement(self.reference, vectors),
            "spearman": self.rank(vectors),
            "megabytes": round(stored_bytes(candidate) / 1e6, 1),
            "integer_ops": integer_ops(model),
            "qdq": _inexact(model) or "exact",
        }


def integer_ops(model: ir.Model) -> int:
    """Number of ops with a constant weight that compute in integers."""
    in_qdq = sum(bool(op.weight) and op.hint is None for op in quantized_ops(model))
    weights = (node.inputs[INTEGER_OPS[node.op_type]] for node in model.graph if node.op_type in INTEGER_OPS)
    return in_qdq + sum(weight is not None and weight.const_value is not None for weight in weights)


def _inexact(model: ir.Model) -> str | None:
    """Why TensorRT would refuse the model's quantised numbers, or take them for others."""
    if any(node.op_type in INTEGER_OPS for node in model.graph):
        return "scales are found at run time"
    try:
        require_exact(model)
    except ModelError as error:
        return str(error)
    return None


def _run(command: list[str], facts: Path) -> Row:
    environment = os.environ | {"PYTHONPATH": str(Path(calib8.__file__).parent.parent)}
    if command[0] != sys.executable:
        del environment["PYTHONPATH"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"given up after {LONGEST} s"}
    except OSError as error:
        return {"absent": f"not run: {error.strerror}"}
    if done.returncode == 0:
        return dict(read_json(facts, "result"))
    last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
    return {"failed": _without_folders(f"exit status {done.returncode}: {last}")}


def _key(quantiser: Quantiser, settings: Row) -> str:
    """Changes with whatever a row's numbers depend on, as far as it can be known without the tool."""
    parts = [json.dumps(settings), quantiser.title, version("onnxruntime")]
    if quantiser.package == "calib8":
        parts += [sha256_file(path) for path in sorted(Path(calib8.__file__).parent.rglob("*.py"))]
    return _digest(*parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _without_folders(text: str) -> str:
    """Absolute paths cut to their last part: where things are on this machine is nobody's business."""
    return re.sub(r"(?<![^\s='\"(])/[^\s'\"]*/", "", text)


def table(results: Row) -> str:
    """The rows as text."""
    machine, settings, fp32 = results["machine"], results["settings"], results["fp32"]
    lines = [
        f"{results['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in results["versions"].items()),
        f"{settings['model']}; calibrated on {settings['calibration_sentences']} sentences, measured on "
        f"{settings['pairs']} pairs in ONNX Runtime",
        f"$ {results['command']}",
        f"FP32: Spearman {fp32['spearman']:.2f}, {fp32['megabytes']:.0f} MB, {fp32['weighted_ops']} weighted ops",
        "",
        f"{'':56}" + "".join(f"{name:>9}" for name in HEAD),
    ]
    lines += [f"{QUANTISERS[name].title:56}" + _cells(row) for name, row in results["rows"].items()]
    others = {QUANTISERS[name].package: row["versions"] for name, row in results["rows"].items() if "versions" in row}
    for package, versions in others.items():
        if package not in HERE:
            lines.append(f"{package}: " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    return "\n".join([*lines, "", NOTES])


def _cells(row: Row) -> str:
    if reason := row.get("failed") or row.get("absent"):
        return f"  {reason}"
    cells = [f"{row[key]:.4f}" for key in ("cosine_mean", "cosine_p1", "cosine_min")]
    cells += [f"{100 * row['neighbours']:.1f} %", f"{row['spearman']:.2f}", f"{row['megabytes']:.0f}"]
    cells += [str(row["integer_ops"]), f"{row['user_s']:.0f}", f"{row['system_s']:.0f}", f"{row['peak_gib']:.2f}"]
    cells += ["exact" if row["qdq"] == "exact" else "other"]
    return "".join(f"{cell:>9}" for cell in cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parser.add_argument("folder", type=Path, help="folder with model.onnx and its tokenizer")
    parser.add_argument("--calibration", type=Path, required=True, help="pairs whose first sentences calibrate")
    parser.add_argument("--pairs", type=Path, required=True, help="scored pairs to measure on")
    parser.add_argument("--sentences", type=int, default=512, help="calibration sentences, evenly spread over the file")
    parser.add_argument("--limit-pairs", type=int, help="measure on so many pairs, evenly spread; for trials")
    parser.add_argument("--only", action="append", choices=QUANTISERS, help="run only this row; may be repeated")
    parser.add_argument(
        "--with", action="append", default=[], type=_python, dest="pythons", metavar="PACKAGE=PYTHON",
        help="Python of a tool that is not installed here; may be repeated",
    )  # fmt: skip
    parser.add_argument("--gib", type=float, default=math.floor(0.8 * memory), help="memory that a tool may take")
    parser.add_argument("--results", type=Path, help="file to keep, .json; bench/results/<today>-accuracy.json")
    parser.add_argument("--again", action="store_true", help="run rows again that are there already")
    return parser.parse_args()


def _python(text: str) -> tuple[str, str]:
    package, _, python = text.partition("=")
    known = sorted({quantiser.package for quantiser in QUANTISERS.values()} - {*HERE})
    if package not in known or not python:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(known)}, then = and a Python")
    return package, python


def _evenly(items: Sequence[Any], count: int | None) -> tuple[Any, ...]:
    return tuple(items[:: max(1, len(items) // count)][:count]) if count else tuple(items)


def main() -> None:
    """Run what is missing, keep every row as soon as it is there, print the table."""
    silence()  # the tools that it starts, too
    asked = _arguments()
    calibration = _evenly([first for first, _, _ in read_pairs(asked.calibration)], asked.sentences)
    pairs = _evenly(read_pairs(asked.pairs), asked.limit_pairs)
    bench = Bench(asked.folder, calibration, pairs, asked.gib, dict(asked.pythons))
    path = asked.results or Path(__file__).parent / "results" / f"{date.today().isoformat()}-accuracy.json"
    earlier = _earlier(path, bench.settings)
    rows: dict[str, Row] = earlier.get("rows", {})
    results = {
        "command": _without_folders(" ".join(["python", *sys.argv])),
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "versions": {name: version(name) for name in ("calib8", "onnxruntime", "onnx", "numpy")},
        "settings": bench.settings,
        "fp32": earlier.get("fp32") or bench.fp32(),
    }
    for name in asked.only or QUANTISERS:
        key = _key(QUANTISERS[name], bench.settings)
        if asked.again or rows.get(name, {}).get("key") != key or "absent" in rows[name]:
            rows[name] = bench.row(name, QUANTISERS[name]) | {"key": key}
            write_json(path, results | {"rows": _comparable(rows, bench.settings)})
        print(f"{QUANTISERS[name].title:56}{_cells(rows[name])}", flush=True)
    results["rows"] = _comparable(rows, bench.settings)
    write_json(path, results)
    write_text(path.with_suffix(".txt"), table(results))
    print(f"\n{table(results)}")


def _earlier(path: Path, settings: Row) -> Row:
    """What is there. Exits if it is of another model or other data: trials must not overwrite results."""
    earlier: Row = read_json(path, "result") if path.is_file() else {}
    if earlier.get("settings", settings) != settings:
        sys.exit(f"{path} holds rows of another model or other data. Name another file with --results.")
    return earlier


def _comparable(rows: dict[str, Row], settings: Row) -> dict[str, Row]:
    """The rows that what is here would make again, in the order of the table: none of an earlier calib8."""
    return {
        name: rows[name]
        for name, quantiser in QUANTISERS.items()
        if rows.get(name, {}).get("key") == _key(quantiser, settings)
    }


if __name__ == "__main__":
    main()
