"""What each CPU runtime, form and number of streams makes of the INT8 model: sentences per second, ratios to FP32.

    python bench/cpu_runtime.py build/mpnet models/all-mpnet-base-v2/model.onnx sentences.txt [result.json]

All that `calib8 tune` would try embed the same sentences by turns in one process;
medians of three rounds. The reference is the FP32 model in ONNX Runtime.
"""

import json
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

from calib8.graph.io import load
from calib8.numerics import cosine_rows
from calib8.report.report import this_machine
from calib8.runtime.base import Runtime
from calib8.runtime.choice import candidates
from calib8.runtime.cpu import open_choice
from calib8.runtime.openvino import OpenVinoRuntime
from calib8.runtime.ort import OrtRuntime
from calib8.text.sentence import SentenceEncoder
from calib8.text.tokenizer import read_sentences

ROUNDS = 3


def main() -> None:
    """Measure, print and keep."""
    folder, fp32, text = (Path(argument) for argument in sys.argv[1:4])
    sentences = read_sentences(text)
    int8 = load(folder / "model.int8.onnx")
    reference = load(fp32)
    runtimes: dict[str, Runtime] = {
        "FP32, ONNX Runtime": OrtRuntime(reference),
        "FP32, OpenVINO": OpenVinoRuntime(reference),
    }
    runtimes |= {f"INT8, {choice}": open_choice(int8, choice) for choice in candidates(int8)}
    encoders = {name: SentenceEncoder(folder, runtime) for name, runtime in runtimes.items()}
    vectors = {name: encoder.embed(sentences[:64]) for name, encoder in encoders.items()}
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(ROUNDS):
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder.embed(sentences)
            rates[name].append(len(sentences) / (time.perf_counter() - start))
    first = next(iter(encoders))
    base = statistics.median(rates[first])
    rows = {
        name: {
            "sentences_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(values) / base, 2),
            "cosine_to_fp32": round(float(np.mean(cosine_rows(vectors[name], vectors[first]))), 5),
        }
        for name, values in rates.items()
    }
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": this_machine().model_dump(),
        "sentences": len(sentences),
        "rows": rows,
    }
    text_result = json.dumps(result, indent=2)
    print(text_result)
    if len(sys.argv) > 4:
        Path(sys.argv[4]).write_text(text_result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
