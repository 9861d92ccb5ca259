"""The yardstick: how far a runtime's outputs are from FP32, on a few samples whose FP32 outputs are kept."""

from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.data.batching import Dataset
from calib8.numerics import cosine_rows
from calib8.runtime.base import Runtime
from calib8.runtime.ort import OrtRuntime
from calib8.verification.compare import vectors_of


class Probe:
    """Measures runtimes against the outputs of ``model``, FP32, over ``data``; see ``compare`` for ``pooling``."""

    def __init__(self, model: ir.Model, data: Dataset, *, pooling: Literal["mean", "cls"] = "mean") -> None:
        self.data, self.pooling = data, pooling
        with OrtRuntime(model) as reference:
            self._expected = self._vectors(reference)

    def cosines(self, runtime: Runtime) -> NDArray[np.float64]:
        """Cosine of each sample to FP32, [samples]; of the output that comes off worst, if there are several."""
        got = self._vectors(runtime)
        found = [
            np.concatenate([cosine_rows(a[name], b[name]) for a, b in zip(self._expected, got, strict=True)])
            for name in self._expected[0]
        ]
        return min(found, key=lambda cosines: float(cosines.mean()))

    def _vectors(self, runtime: Runtime) -> list[dict[str, NDArray[np.float32]]]:
        batches = []
        for _, arrays in self.data.batches():
            mask = np.asarray(arrays[self.data.mask]) if self.data.mask else None
            outputs = runtime.run(arrays)
            batches.append({name: vectors_of(output, mask, self.pooling) for name, output in outputs.items()})
        return batches
