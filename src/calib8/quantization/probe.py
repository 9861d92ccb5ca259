"""The yardstick: how far a runtime's outputs are from FP32, on a few samples whose FP32 outputs are kept."""

import math
from collections.abc import Mapping
from copy import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.data.batching import Dataset, Rows
from calib8.data.inputs import Arrays
from calib8.data.sources import Source
from calib8.data.split import First
from calib8.errors import ConfigError, DataError
from calib8.graph.dataset import dataset_for, samples_for
from calib8.progress import Quiet
from calib8.runtime.base import Runtime
from calib8.runtime.judged import open_as_built, open_reference
from calib8.runtime.run_all import run_filled
from calib8.text.sentence import pooling_of
from calib8.verification.kinds.base import Numbers, Pooling, Side
from calib8.verification.measured import Measured, at_least, has_any, kind_of, require_known
from calib8.verification.named import KindName, Least
from calib8.verification.outputs import finite_numbers, without_padding

#: What a sample with NaN or infinity counts for: no other is as bad. Where scores are counts, that is nothing right.
RUINED, NOTHING_RIGHT = -1.0, 0.0
#: With fewer samples in which there is anything to compare, most damage goes unseen.
FEWEST_SCORED = 8


def probe_of(
    model: ir.Model, source: Source, samples: int, folder: Path | None, kinds: Mapping[str, KindName] | None = None
) -> "Probe":
    """A probe of the first ``samples`` of ``source``, pooled as the files in the model's ``folder`` say."""
    pooling = pooling_of(folder)[0] if folder is not None else "mean"
    chosen = First(samples_for(model, source, Quiet()), samples)
    return Probe(model, dataset_for(model, chosen, Quiet()), pooling=pooling, kinds=kinds)


class Probe:
    """Measures runtimes against the outputs of ``model``, FP32, over ``data``; see ``compare`` for the rest.

    Raises ``DataError`` for outputs that cannot be measured: not of numbers, NaN or infinity, no row per sample.
    """

    def __init__(
        self,
        model: ir.Model,
        data: Dataset,
        *,
        pooling: Pooling = "mean",
        kinds: Mapping[str, KindName] | None = None,
    ) -> None:
        self.data, self.pooling = data, pooling
        #: How each output is measured; see ``only``.
        self.outputs: dict[str, Measured] = {}
        with open_reference(model) as reference:
            self._expected = [self._kept(reference, *batch, kinds or {}) for batch in data.batches()]
        require_known(kinds or {}, self.outputs)

    def only(self, least: Least) -> "Probe":
        """The same, of the outputs that ``least`` means alone. Raises ``ConfigError`` if there is none."""
        other = copy(self)
        other.outputs = {name: one for name, one in self.outputs.items() if least.means(name, one.kind)}
        if not other.outputs:
            kinds = ", ".join(f"{name} ({one.kind})" for name, one in self.outputs.items())
            raise ConfigError(
                f"got a budget of {least}, but the model's outputs are {kinds}. Name one of these, or a kind: --budget "
                "boxes=0.98. What an output is says --output-kind NAME=KIND."
            )
        return other

    def scores(self, runtime: Runtime, samples: int | None = None) -> Numbers:
        """Score of each sample beside FP32, [samples]; of the output that comes off worst, if there are several.

        Beside others one of counts may be a sample off, which is chance. ``samples``: no more batches than hold these.
        """
        found = {name: Measured(one.kind, one.guessed, one.pooling) for name, one in self.outputs.items()}
        ruined: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in found}
        measured = 0
        for (rows, arrays), expected in zip(self.data.batches(), self._expected, strict=True):
            if samples is not None and measured >= samples:
                break
            measured += len(rows)
            mask, outputs = self._mask(arrays), run_filled(runtime, arrays, self.data)
            for name, one in found.items():
                numbers = without_padding(_measurable(name, outputs[name], len(rows)), mask)
                finite = np.isfinite(numbers)
                got = one.kept(np.where(finite, numbers, 0), mask)
                _require_size(name, got, expected[name])
                one.add(expected[name], got)
                ruined[name].append(~finite.all(axis=tuple(range(1, finite.ndim))))
        scores = {name: _with_ruins(one, np.concatenate(ruined[name])) for name, one in found.items()}
        allowed = {name: 1 / len(self.data) if one.measure.counted else 0.0 for name, one in found.items()}
        return scores[min(scores, key=lambda name: float(scores[name].mean()) + allowed[name])]

    def score(self, quantised: ir.Model) -> float:
        """Mean score of ``quantised`` beside FP32, with the arithmetic of an engine."""
        with open_as_built(quantised) as runtime:
            return float(self.scores(runtime).mean())

    @property
    def told(self) -> str:
        """What its scores are, for people."""
        return " or ".join(dict.fromkeys(one.measure.score for one in self.outputs.values()))

    @property
    def blind(self) -> str | None:
        """Why damage goes unseen, where it does; for people."""
        scored, samples = min(map(self._scored, self.outputs)), len(self.data)
        if scored >= min(FEWEST_SCORED, samples):
            return None
        return (
            f"only {scored} of {samples} samples that quantised models are measured on have anything to compare "
            f"({self.told}): damage goes unseen. Calibrate on data in which there is something to find"
        )

    @property
    def step(self) -> float:
        """The least difference of means that is not chance: more than one sample's, where all scores are counts."""
        return 1 / len(self.data) if self._counts() is not None else 0.0

    @property
    def few(self) -> int:
        """The samples of the first batches, until there are enough to see damage in."""
        held = np.cumsum([len(group.rows) for group in self.data.groups()])
        return int(held[np.argmax(held >= min(FEWEST_SCORED, held[-1]))])

    @property
    def counts(self) -> bool:
        """Whether the score of any output is made of counts, whose spread no few samples tell."""
        return any(one.measure.counted for one in self.outputs.values())

    def bound(self, scores: Numbers) -> float:
        """What the mean score of other samples is not below, give or take one standard error, by these [samples]."""
        if (kind := self._counts()) is not None:
            return at_least(kind.measure, scores, z=1.0)
        return float(scores.mean() - scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else -math.inf

    def _scored(self, name: str) -> int:
        """In how many samples FP32 finds anything that could get lost."""
        one = self.outputs[name]
        found = Measured(one.kind, one.guessed, one.pooling)
        for expected in self._expected:
            found.add(expected[name], expected[name])
        return int(np.count_nonzero(has_any(one.measure, found.measure.scores(*found.facts()))))

    def _counts(self) -> Measured | None:
        """An output, if all are of counts."""
        first, *others = self.outputs.values()
        return first if all(one.measure.counted for one in (first, *others)) else None

    def _kept(self, reference: Runtime, rows: Rows, arrays: Arrays, kinds: Mapping[str, KindName]) -> dict[str, Side]:
        mask, outputs = self._mask(arrays), run_filled(reference, arrays, self.data)
        for name, output in outputs.items():
            _measurable(name, output, len(rows))
            if name not in self.outputs:
                self.outputs[name] = kind_of(name, output, mask, self.pooling, kinds)
        found = finite_numbers(reference, outputs, rows, arrays, mask)
        return {name: self.outputs[name].kept(numbers, mask) for name, numbers in found.items()}

    def _mask(self, arrays: Arrays) -> NDArray[np.generic] | None:
        return np.asarray(arrays[self.data.mask]) if self.data.mask else None


def _measurable(name: str, output: NDArray[np.generic], samples: int) -> NDArray[np.generic]:
    if output.dtype.kind not in "biuf":
        raise DataError(f"output {name!r} is not of numbers: there is nothing to compare. Leave it out of the model.")
    if output.ndim == 0 or len(output) != samples:
        raise DataError(
            f"output {name!r} has shape {list(output.shape)} for a batch of {samples}; expected one row per sample. "
            "Leave that output out of the model."
        )
    return output


def _with_ruins(one: Measured, ruined: NDArray[np.bool_]) -> Numbers:
    """Its scores; where an output was ``ruined``, a kind may have seen something in it all the same: the class 0, say,
    or that there is no box."""
    return np.where(ruined, NOTHING_RIGHT if one.measure.counted else RUINED, one.scores())


def _require_size(name: str, got: Side, expected: Side) -> None:
    if got.shape != expected.shape:
        raise DataError(
            f"output {name!r} has another size quantised than in FP32 (rows of {got[0].size} and {expected[0].size}): "
            "it depends on the numbers, so there is nothing to compare. Leave that output out of the model."
        )
