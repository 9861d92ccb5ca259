"""calib8's calibration pass and nothing else: what bench/calibration.py measures.

    python bench/observed_pass.py FOLDER ROW

ROW is an observer, ``default`` (all that the default recipe needs) or ``openvino`` (the same in OpenVINO). FOLDER has
model.onnx and its inputs as data/*.npy; the ranges that were found go to ROW.json in it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calib8.calibration import collect as collecting
from calib8.calibration.observers import observer_for
from calib8.data.inputs import Arrays
from calib8.data.sources import NpyFolder
from calib8.files import write_json
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load
from calib8.passes.prepare import prepare
from calib8.progress import Quiet
from calib8.quantization.solve import ROWS
from calib8.runtime.openvino import OpenVinoRuntime


class InOpenVino(OpenVinoRuntime):
    """Takes the place of the runtime that calibration uses."""

    def __init__(self, model: ir.Model, *, threads: int | None, **_: Any) -> None:
        for value in model.graph.inputs:
            value.shape = value.shape or ir.Shape([None])  # OpenVINO takes no input of unknown rank
        super().__init__(model, threads=threads or len(os.sched_getaffinity(0)))

    def compute(self, arrays: Arrays) -> Arrays:
        """See ``OrtRuntime``."""
        return self._run(arrays)


def main() -> None:
    folder, row = Path(sys.argv[1]), sys.argv[2]
    everything = row in ("default", "openvino")
    if row == "openvino":
        collecting.OrtRuntime = InOpenVino  # type: ignore[attr-defined,assignment,misc]
    model = prepare(load(folder / "model.onnx"))
    dataset = dataset_for(model, NpyFolder(folder / "data"), Quiet())
    observer = observer_for("minmax" if everything else row)
    sample = ROWS if everything else 0
    found = collecting.collect(model, dataset, Quiet(), sample=sample, histograms=observer.histogram)
    for seen in found.values():
        observer.amax(seen)
    write_json(folder / f"{row}.json", {name: [seen.minimum, seen.maximum] for name, seen in found.items()})


if __name__ == "__main__":
    main()
