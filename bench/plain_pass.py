"""A forward pass in ONNX Runtime and nothing else: what bench/calibration.py measures calibration against.

    python bench/plain_pass.py FOLDER

FOLDER has model.onnx, its inputs as data/*.npy and batches.json: of each batch the rows and the length.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from calib8.telemetry import onnxruntime


def main() -> None:
    ort = onnxruntime()
    folder, options = Path(sys.argv[1]), ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))  # its default takes cores that are not ours
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    whole = {name: np.load(folder / "data" / f"{name}.npy", allow_pickle=False) for name in names}
    for rows, length in json.loads((folder / "batches.json").read_text()):
        session.run(None, {name: array[rows][:, :length] for name, array in whole.items()})


if __name__ == "__main__":
    main()
