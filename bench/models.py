"""One plain `calib8 convert` of an ONNX model, on random data in the shape of its inputs: time, memory, verdict.

    python bench/models.py model.onnx [image=3x224x224 ids=20:100 lengths=@20 ...] [samples=256] [--no-engine]

Sizes are those of a sample, needed only for dimensions that the model leaves open; behind a colon the number of
indices, behind @ the values that all samples have, as in scales=3@0.667/1/0.8. Nothing is patched and no --shapes
given; what begins with -- goes to convert (--data=FILE, and random data goes unused). There are 32 samples, of which
convert holds an eighth back. Printed: seconds, peak memory of calib8 and of the model alone (ONNX Runtime, one sample),
and what calib8 says. Random data shows that a model goes through, not what it keeps.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

ALONE = """
import pathlib, sys, numpy as np, onnxruntime
arrays = dict(np.load(sys.argv[2]))
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, arrays)
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss counts the process that it was forked from
print(next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")))
"""


def pink(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """[samples, *shape] of as much change at every scale, as pictures and sounds have (Field, 1987)."""
    samples, *sizes = shape
    fine = sizes[-2:]
    drawn, step = np.zeros(shape), 1
    while True:
        octave = random.normal(size=(samples, *sizes[:-2], *(-(-size // step) for size in fine)))
        for axis, size in enumerate(fine, start=len(shape) - len(fine)):
            octave = np.take(octave, np.arange(size) // step, axis)
        drawn += octave
        if step >= max(fine, default=1):
            return drawn / drawn.std()
        step *= 2


def samples_of(model: onnx.ModelProto, asked: dict[str, str]) -> dict[str, np.ndarray]:
    random, arrays, samples = np.random.default_rng(0), {}, int(asked.get("samples", "32"))
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights:
            continue
        told, _, values = asked.get(value.name, "").partition("@")
        given, _, indices = told.partition(":")
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        shape = [int(size) for size in given.split("x")] if given else dims
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        drawn = pink(random, (samples, *shape))
        if values:
            drawn = np.broadcast_to(np.array(values.split("/"), np.float64), drawn.shape)
        elif indices or dtype.kind in "iu":
            drawn = np.abs(drawn * 1e6) % int(indices or 2)
        arrays[value.name] = drawn.astype(dtype)
    return arrays


def alone(model: Path, arrays: dict[str, np.ndarray], folder: Path) -> str:
    """MiB of one run of the model by itself."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in onnx.load(model).graph.input}
    one = {name: array[:1] if array.ndim == ranks[name] else array[0] for name, array in arrays.items()}
    np.savez(folder / "one.npz", **one)
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, str(model), str(folder / "one.npz")], capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() or "does not run"


def main() -> None:
    options = [part for part in sys.argv[2:] if part.startswith("--")]
    model, asked = Path(sys.argv[1]), dict(part.split("=", 1) for part in sys.argv[2:] if part not in options)
    with TemporaryDirectory() as name:
        folder = Path(name)
        arrays = samples_of(onnx.load(model, load_external_data=False), asked)
        np.savez(folder / "data.npz", **arrays)
        files = ["--data", folder / "data.npz", "-o", folder / "out"]
        command = ["convert", model, *files, "--target", "sm86", "--quiet", *options]
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "calib8", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            peak, said = 0, ""
            while process.poll() is None:
                status = Path(f"/proc/{process.pid}/status").read_text() if process.pid else ""
                peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
                time.sleep(0.05)
            said = process.stdout.read() if process.stdout else ""
        took = time.perf_counter() - began
        report = folder / "out" / "report.json"
        verdict = " ".join(said.split("error:")[-1].split())[:400]
        if report.is_file():
            found = json.loads(report.read_text())
            planned = sum(engine["plan"]["covered"] for engine in found["engines"])
            worst = min(found["accuracy"]["outputs"].values(), key=lambda one: one["mean"])
            verdict = (
                f"{'PASSED' if found['passed'] else 'FAILED'}, {found['int8_ops']} of {found['weighted_ops']} in INT8, "
                f"{planned} planned, {worst['kind']} {worst['mean']:.4f}"
            )
        print(f"{model.name}: rc {process.returncode}, {took:.0f} s, {peak // 1024} MiB, alone "
              f"{alone(model, arrays, folder)} MiB: {verdict}")  # fmt: skip


if __name__ == "__main__":
    main()
