"""One tensor under observation: what to ask of the graph for a batch, and what to keep of the answer."""

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from calib8.calibration.config import TensorChoice
from calib8.calibration.every import float_values
from calib8.calibration.kept import Batch, Kept, kept_patches, kept_rows, kept_tokens
from calib8.calibration.layout import Layout, Seen, layout_of, sequence_first
from calib8.calibration.reductions import GROUP, PREFIX, Outputs, Reductions
from calib8.calibration.sample import Spool
from calib8.calibration.statistics import Histogram, TensorStatistics
from calib8.data.inputs import Arrays
from calib8.errors import DataError
from calib8.graph.flattened import unflattened
from calib8.graph.shapes import Shape
from calib8.graph.site import sites
from calib8.graph.values import name_of
from calib8.graph.weighted import weighted_ops
from calib8.graph.window import Window, point
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.skip_codes import summed


@dataclass
class Observed:
    """The tensor ``name``.

    views: one per way in which sites read it, None for rows of single positions. unflattened: the tensor that it has
    the rows of, if it is flat and that is known. whole: no weighted op reads it, so that its range is all that matters.
    """

    name: str
    spool: Spool
    unflattened: str | None = None
    whole: bool = False
    read_by_conv: bool = False
    views: list[Window | None] = field(default_factory=list)
    layout: Layout = "rows"
    #: The order of tokens: position by position or sample by sample, which is taken for granted if it is not told.
    sequence_first: bool | None = False
    #: For some batch: its rank, and all axes that are not of the batch or the sequence.
    shape: Shape = ()
    _outputs: Outputs | None = None
    #: By view: the input that chooses rows, and the outputs that hold them.
    _picks: dict[Window | None, tuple[str, tuple[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._statistics = TensorStatistics(self.spool)

    def settle(self, batches: list[tuple[dict[str, Shape], Shape | None]]) -> None:
        """Learn the layout from the shapes of tensors, by name, and of the mask, in some batches."""
        seen = [Seen(shapes[self.name], mask, shapes.get(self.unflattened or "")) for shapes, mask in batches]
        self.layout = layout_of(seen, read_by_conv=self.read_by_conv, at_a_site=bool(self.views))
        self.shape = seen[0].shape
        if self.layout == "tokens":
            self.sequence_first = sequence_first(seen)

    def reduce(self, graph: Reductions, *, histogram: bool, sampled: bool) -> None:
        """Add to the graph what ``add`` reads."""
        reduce = graph.reduce_whole if self.whole else graph.reduce
        self._outputs = reduce(self.name, self.layout, self.shape, self._tokens, histogram=histogram)
        for number, view in enumerate(self.views if sampled else ()):
            index = f"{PREFIX}kept.{self.name}.{number}"
            width = None if self.layout == "channels first" else self.shape[-1]
            self._picks[view] = index, graph.pick(self.name, width, index)

    @property
    def needs_shape(self) -> bool:
        """Whether rows can be sampled only by who knows the tensor's shape in the batch."""
        return bool(self.views) and self.layout != "tokens"

    def ask(self, batch: Batch, shape: Shape) -> tuple[Arrays, dict[Window | None, Kept]]:
        """The index inputs for a batch in which the tensor has this ``shape``, and which rows those choose."""
        indices: Arrays = {}
        if self.layout == "tokens":
            numbers = batch.tokens(self._rows_per_token, sequence_first=bool(self.sequence_first))
            indices[self._tokens] = np.pad(numbers, (0, -len(numbers) % GROUP), mode="edge")
            indices[f"{self._tokens}.count"] = np.array([len(numbers)])
        kept = {view: self._kept(view, batch, shape) for view in self._picks}
        indices |= {self._picks[view][0]: chosen.index for view, chosen in kept.items()}
        return indices, kept

    def add(self, outputs: Arrays, kept: dict[Window | None, Kept]) -> None:
        """Keep what came out. Raises ``DataError`` if the tensor became NaN or infinite, which no weighted op can read.

        A tensor that none reads may be: masks hold -inf. Its range is infinite then.
        """
        assert self._outputs is not None
        low, high, power = (np.asarray(outputs[name], np.float32) for name in self._outputs[:3])
        if self.whole and low > high:  # no values: what nothing was found in
            return
        if not (np.isfinite(low).all() and np.isfinite(high).all()) or np.isnan(power).any():
            if self.whole:
                self._statistics.minimum, self._statistics.maximum = -np.inf, np.inf
                return
            raise DataError(
                f"tensor {self.name!r} became NaN or infinite during calibration. Check the data and that the model "
                "runs correctly in FP32 on it."
            )
        power = np.minimum(power, np.finfo(np.float32).max)  # squares of 2e19 and more
        self._statistics.add(low, high, np.sqrt(power / np.float32(len(low))))
        if self._outputs.counts is not None and self._outputs.exponent is not None:
            counts, exponent = outputs[self._outputs.counts], outputs[self._outputs.exponent]
            self._statistics.values.merge(Histogram.of(np.asarray(counts, np.int64), int(exponent)))
        for view, chosen in kept.items():
            halves, exponent = (outputs[name] for name in self._picks[view][1])
            rows = np.asarray(halves, np.float16)
            if chosen.index.ndim > 1:
                rows = np.where(chosen.index < 0, np.float16(0), rows)  # the padding of a Conv
            self._statistics.sample(view).add(rows, np.full(len(rows), int(exponent)), chosen.coordinates)

    def take(self) -> TensorStatistics:
        """What was added since the last call."""
        taken, self._statistics = self._statistics, TensorStatistics(self.spool)
        return taken

    def _kept(self, view: Window | None, batch: Batch, shape: Shape) -> Kept:
        if self.layout == "tokens":
            return kept_tokens(batch, self._rows_per_token, sequence_first=bool(self.sequence_first))
        if self.layout == "channels first":
            return kept_patches(batch, shape, view or point(len(shape) - 2))
        return kept_rows(batch, math.prod(shape[:-1]))

    @property
    def _rows_per_token(self) -> int:
        return math.prod(self.shape[2:-1])

    @property
    def _tokens(self) -> str:
        first = "sequence" if self.sequence_first else "batch"
        return f"{PREFIX}tokens.{first}.{self._rows_per_token}"


def observed_tensors(model: ir.Model, choice: TensorChoice = "weighted") -> list[Observed]:
    """The tensors that weighted ops of ``model`` read, and sums that may be INT8, or all float ones.

    What is quantised is the model of plain convolutions: of two tensors that are one there it has the name of either,
    and all their readers. So what its ops read is observed as they read it, too. The rows of all go to one file.
    """
    plain, spool = plain_convolutions(model), Spool()
    sums = summed(plain)
    wanted = [value for value in float_values(model) if choice == "all" or name_of(value) in sums]
    found = {name_of(value): _observed(value, spool, whole=True) for value in wanted}
    for op in (*weighted_ops(model), *weighted_ops(plain)):
        name = name_of(op.activation)
        if name not in found or found[name].whole:
            found[name] = _observed(op.activation, spool)
        tensor = found[name]
        tensor.read_by_conv |= op.kind == "Conv"
    for site in (*sites(model), *sites(plain)):
        if site.view not in found[site.tensor].views:
            found[site.tensor].views.append(site.view)
    return list(found.values())


def _observed(value: ir.Value, spool: Spool, *, whole: bool = False) -> Observed:
    origin = unflattened(value)
    return Observed(name_of(value), spool, None if origin is None else origin.name, whole)
