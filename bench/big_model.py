"""Calibrate and quantise a model of several GiB: peak memory against the model's size, and seconds.

    python bench/big_model.py [--gigabytes 3.2] [--treatment plain] [-o result.json]

The model is synthetic: blocks of MatMul -> Add -> Relu, 4096 channels, random weights in external data. Each step
is a process of its own, as on the command line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from calib8.files import write_json
from calib8.report.report import this_machine

CHANNELS, SAMPLES = 4096, 128
BLOCK = 4 * CHANNELS * CHANNELS


def main() -> None:
    """Make the model, run the steps, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.2)
    parser.add_argument("--treatment", choices=("auto", "plain"), default="auto")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.gigabytes, options.treatment)
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


def measure(folder: Path, gigabytes: float, treatment: str) -> dict[str, object]:
    """The numbers of a model of that size, made in ``folder``."""
    model = make_model(folder, round(gigabytes * 1e9 / BLOCK))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(SAMPLES, CHANNELS)).astype(np.float32))
    ranges, int8 = folder / "ranges.json", folder / "int8.onnx"
    steps = {
        "calibrate": ["calibrate", model, "--data", folder, "-o", ranges],
        "quantize": ["quantize", model, "--ranges", ranges, "-o", int8, "--treatment", treatment, "--min-sqnr", "0"]
        + (["--data", folder] if treatment == "auto" else []),
    }
    size = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
    facts = {step: run([str(argument) for argument in command]) for step, command in steps.items()}
    return {
        "command": f"python bench/big_model.py --gigabytes {gigabytes} --treatment {treatment}",
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "model_gib": round(size / 2**30, 3),
        "steps": facts,
        "peak_beyond_the_model_gib": round(max(fact["peak_gib"] for fact in facts.values()) - size / 2**30, 3),
    }


def make_model(folder: Path, blocks: int) -> Path:
    """``blocks`` blocks; no more than one weight in memory at a time."""
    random = np.random.default_rng(8)
    nodes, weights, path = [], [], folder / "model.onnx"
    with (folder / "model.onnx.data").open("wb") as data:
        for block in range(blocks):
            tensor = TensorProto(name=f"w{block}", data_type=TensorProto.FLOAT, dims=[CHANNELS, CHANNELS])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": "model.onnx.data", "offset": data.tell(), "length": BLOCK}.items():
                tensor.external_data.add(key=key, value=str(value))
            weights += [tensor, helper.make_tensor(f"b{block}", TensorProto.FLOAT, [CHANNELS], np.zeros(CHANNELS))]
            weight = random.standard_normal((CHANNELS, CHANNELS), np.float32)
            data.write((weight * np.float32(np.sqrt(2 / CHANNELS))).data)
            source = f"h{block}" if block else "x"
            nodes += [
                helper.make_node("MatMul", [source, f"w{block}"], [f"m{block}"], name=f"block{block}"),
                helper.make_node("Add", [f"m{block}", f"b{block}"], [f"a{block}"]),
                helper.make_node("Relu", [f"a{block}"], [f"h{block + 1}"]),
            ]
    sizes = ["batch", CHANNELS]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in ("x", f"h{blocks}")]
    graph = helper.make_graph(nodes, "big", ends[:1], ends[1:], weights)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    )
    return path


def run(arguments: list[str]) -> dict[str, float]:
    """Seconds and peak resident memory of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "calib8", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    return {
        "wall_s": round(time.perf_counter() - started, 1),
        "user_s": round(usage.ru_utime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
    }


if __name__ == "__main__":
    main()
