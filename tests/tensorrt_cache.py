"""A calibration cache as TensorRT 8 to 10 leaves it: a scale for every tensor, and for those that it added itself."""

import struct
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib8.testing import outputs_of

HEADER = "TRT-8601-EntropyCalibration2"


def tensorrt_cache(path: Path, feeds: dict[str, np.ndarray]) -> str:
    """Min/max scales of every float tensor of the ONNX file ``path`` over ``feeds``, a constant after every fifth."""
    model = common.ShapeInferencePass(strict_mode=False)(ir.load(path)).model
    produced = [v for node in model.graph for v in node.outputs if v.name and v.dtype == ir.DataType.FLOAT]
    model.graph.outputs.clear()
    model.graph.outputs.extend(produced)
    inputs = {v.name: feeds[v.name] for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT}
    lines = [HEADER]
    for number, (name, array) in enumerate((inputs | outputs_of(model, feeds)).items()):
        scale = np.float32(np.abs(array, dtype=np.float64).max(initial=0) / 127)
        lines.append(f"{name}: {struct.pack('>f', scale).hex() if scale else '0'}")  # TensorRT pads no zeros
        if number % 5 == 0:
            lines.append(f"(Unnamed Layer* {number}) [Constant]_output: 3c010a14")
    return "\n".join(lines) + "\n"
