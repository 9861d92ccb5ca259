"""The yardstick: how far a runtime's outputs are from FP32, on a few samples whose FP32 outputs are kept."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.data.batching import Dataset
from calib8.data.sources import Source
from calib8.data.split import First
from calib8.errors import DataError
from calib8.graph.dataset import dataset_for, samples_for
from calib8.numerics import cosine_rows
from calib8.progress import Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.judged import open_as_built, open_reference
from calib8.runtime.run_all import run_filled
from calib8.text.sentence import pooling_of
from calib8.verification.outputs import finite_numbers, vectors_of, without_padding

#: What a sample with NaN or infinity counts for: no other is as bad.
RUINED = -1.0


def probe_of(model: ir.Model, source: Source, samples: int, folder: Path | None) -> "Probe":
    """A probe of the first ``samples`` of ``source``, pooled as the files in the model's ``folder`` say."""
    pooling = pooling_of(folder)[0] if folder is not None else "mean"
    chosen = First(samples_for(model, source, Quiet()), samples)
    return Probe(model, dataset_for(model, chosen, Quiet()), pooling=pooling)


class Probe:
    """Measures runtimes against the outputs of ``model``, FP32, over ``data``; see ``compare`` for ``pooling``.

    Raises ``DataError`` for outputs that cannot be measured: not of numbers, NaN or infinity, no row per sample.
    """

    def __init__(self, model: ir.Model, data: Dataset, *, pooling: Literal["mean", "cls"] = "mean") -> None:
        self.data, self.pooling = data, pooling
        with open_reference(model) as reference:
            self._expected = self._vectors(reference, required=True)

    def cosines(self, runtime: Runtime) -> NDArray[np.float64]:
        """Cosine of each sample to FP32, [samples]; of the output that comes off worst, if there are several."""
        got = self._vectors(runtime)
        found = [
            np.concatenate([_cosines(name, a[name], b[name]) for a, b in zip(self._expected, got, strict=True)])
            for name in self._expected[0]
        ]
        return min(found, key=lambda cosines: float(cosines.mean()))

    def cosine(self, quantised: ir.Model) -> float:
        """Mean cosine of ``quantised`` to FP32, with the arithmetic of an engine."""
        with open_as_built(quantised) as runtime:
            return float(self.cosines(runtime).mean())

    def _vectors(self, runtime: Runtime, *, required: bool = False) -> list[dict[str, NDArray[np.float32]]]:
        batches = []
        for rows, arrays in self.data.batches():
            mask = np.asarray(arrays[self.data.mask]) if self.data.mask else None
            outputs = run_filled(runtime, arrays, self.data)
            for name, output in outputs.items():
                _refuse_unmeasurable(name, np.asarray(output), len(rows))
            outputs = {name: without_padding(output, mask) for name, output in outputs.items()}
            if required:
                finite_numbers(runtime, outputs, rows, arrays, mask)
            batches.append({name: vectors_of(output, mask, self.pooling) for name, output in outputs.items()})
        return batches


def _refuse_unmeasurable(name: str, output: NDArray[np.generic], samples: int) -> None:
    if output.dtype.kind not in "biuf":
        raise DataError(f"output {name!r} is not of numbers: there is nothing to compare. Leave it out of the model.")
    if output.ndim == 0 or len(output) != samples:
        raise DataError(
            f"output {name!r} has shape {list(output.shape)} for a batch of {samples}; expected one row per sample. "
            "Leave that output out of the model."
        )


def _cosines(name: str, expected: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float64]:
    if expected.shape != got.shape:
        raise DataError(
            f"output {name!r} has another size quantised than in FP32 (rows of {got.shape[1]} and "
            f"{expected.shape[1]}): it depends on the numbers, so there is nothing to compare. Leave that output out "
            "of the model."
        )
    return np.nan_to_num(cosine_rows(expected, got), nan=RUINED)
