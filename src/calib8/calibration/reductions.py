"""Reduce what calibration observes inside the graph, so that no activation leaves the runtime whole."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.calibration.layout import Layout
from calib8.calibration.statistics import BINS
from calib8.errors import ModelError

#: Everything that is added bears names that begin so.
PREFIX = "calib8.calibrate."
#: The opsets in which axes of reductions became an input, and in which ScatterElements learnt to add.
AXES_AS_INPUT, ADDING = 18, 16
#: Of the number of bins.
BITS = int(np.log2(BINS))
#: Rows that are compared at once. Along a first axis ONNX Runtime compares values one by one, along a middle one many
#: at a time: five times as fast, if no more rows than these share a place in the cache.
GROUP = 8
#: Exponents of the powers of two among which the amax of a tensor is looked up.
LEAST, GREATEST = -100, 127
#: Exponent of the power of two below which the rows of a sample are brought: they stay within float16, and what is not
#: smaller than 2**-29 of the amax has all of its 11 bits.
HALVES = 15


class Outputs(NamedTuple):
    """Names of what comes out for one tensor: the extremes of every channel, each row's sum of squares, and the
    histogram of |x| (counts [BINS], the exponent of the bin width) where it was asked for. A tensor that is reduced as
    a whole has one channel, and the batch is one row: the mean of its squares."""

    low: str
    high: str
    power: str
    counts: str | None = None
    exponent: str | None = None


class Reductions:
    """Builds ``model``: a clone that computes what is asked for and nothing else.

    Inputs are int64 indices of any shape, made when they are first named.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        self._graph, self._opset = self.model.graph, self.model.opset_imports.get("", 0)
        self._values = {value.name: value for node in self._graph for value in node.outputs}
        self._values |= {value.name: value for value in self._graph.inputs}
        self._reduced_to: dict[str, tuple[ir.Value, ir.Node | None]] = {}
        self._constants: dict[tuple[type[np.generic], tuple[int, ...], bytes], ir.Value] = {}
        self._last: ir.Node | None = None
        self._graph.outputs.clear()

    def reduce(self, name: str, layout: Layout, shape: Sequence[int], tokens: str, *, histogram: bool) -> Outputs:
        """Reduce the tensor ``name``, whose ``shape`` for any batch tells its rank and last axis.

        tokens: for the layout ``tokens`` the input with the numbers of the rows that a mask counts, the last one
            repeated until they are whole groups; the input with how many count [1] is called ``<tokens>.count``.
        """
        x = self._as_float(self._begin(name))
        count = self._index(f"{tokens}.count") if layout == "tokens" else None
        rows = self._rows(x, layout, shape, tokens)
        if layout == "tokens":
            grouped = self._node("Reshape", rows, self._constant([-1, GROUP, shape[-1]]))
            found = self._extremes(grouped, [1], [0])
        elif layout == "rows":
            found = self._extremes(x, [*range(1, len(shape) - 1)], [0])
        else:
            found = self._extremes(rows, [0, *(range(2, len(shape)) if layout == "channels first" else ())])
        number = self._powers_reached(found)
        power = self._reduced("ReduceSum", self._node("Mul", rows, rows), [1])
        found.append(self._first(power, count))
        if histogram:
            found += self._histogram(self._first(rows, count), number)
        self._graph.outputs.extend(found)
        self._reduced_to[name] = number, self._last
        return Outputs(*(value.name or "" for value in found))

    def reduce_whole(self, name: str, layout: Layout, shape: Sequence[int], tokens: str, *, histogram: bool) -> Outputs:
        """As ``reduce``, of all values together: three numbers [1] come out, whatever the tensor's rank."""
        x = self._as_float(self._begin(name))
        if layout == "tokens":
            x = self._first(self._rows(x, layout, shape, tokens), self._index(f"{tokens}.count"))
        flat = self._node("Reshape", x, self._constant([-1]))
        least, greatest, squares = (
            self._reduced(kind, flat, [0], keepdims=1) for kind in ("ReduceMin", "ReduceMax", "ReduceSumSquare")
        )
        size = self._node("Cast", self._node("Size", flat), to=int(ir.DataType.FLOAT))
        found = [least, greatest, self._node("Div", squares, size)]
        if histogram:
            found += self._histogram(flat, self._powers_reached(found[:2]))
        self._graph.outputs.extend(found)
        return Outputs(*(value.name or "" for value in found))

    def extremes(self, names: Sequence[str]) -> tuple[str, str]:
        """The outputs with the least and the greatest value of each of the tensors ``names``, [names] each."""
        found: list[list[ir.Value]] = [[], []]
        for name in names:
            flat = self._node("Reshape", self._as_float(self._begin(name)), self._constant([-1]))
            for place, kind in enumerate(("ReduceMin", "ReduceMax")):
                found[place].append(self._reduced(kind, flat, [0], keepdims=1))
        low, high = (self._node("Concat", *values, axis=0) for values in found)
        self._graph.outputs.extend([low, high])
        return low.name or "", high.name or ""

    def pick(self, name: str, width: int | None, index: str) -> tuple[str, str]:
        """The outputs with what the input ``index`` chooses of the reduced tensor ``name``: float16 over 2**exponent,
        and the exponent.

        Rows of ``width`` values by their number, or with ``width`` None single values, by an index [n, values per row].
        """
        number, self._last = self._reduced_to[name]
        flat = self._node("Reshape", self._values[name], self._constant([-1] if width is None else [-1, width]))
        rows = self._as_float(self._node("Gather", flat, self._index(index), axis=0))
        powers = self._powers(HALVES - np.arange(LEAST, GREATEST + 2))
        halves = self._node("Mul", rows, self._node("Gather", powers, number, axis=0))
        halves = self._node("Cast", halves, to=int(ir.DataType.FLOAT16))
        exponent = self._node("Add", number, self._constant(LEAST - HALVES))
        self._graph.outputs.extend([halves, exponent])
        return halves.name or "", exponent.name or ""

    def _rows(self, x: ir.Value, layout: Layout, shape: Sequence[int], tokens: str) -> ir.Value:
        if layout == "channels first":
            return x
        rows = self._node("Reshape", x, self._constant([0, -1] if layout == "samples" else [-1, shape[-1]]))
        return self._node("Gather", rows, self._index(tokens), axis=0) if layout == "tokens" else rows

    def _extremes(self, x: ir.Value, *steps: list[int]) -> list[ir.Value]:
        """The least and the greatest values of ``x``, reduced over some axes after others."""
        least, greatest = x, x
        for axes in filter(None, steps):
            least, greatest = self._reduced("ReduceMin", least, axes), self._reduced("ReduceMax", greatest, axes)
        return [least, greatest]

    def _first(self, x: ir.Value, count: ir.Value | None) -> ir.Value:
        """As many rows of ``x`` as count; all of them if that is None."""
        return x if count is None else self._node("Slice", x, self._constant([0]), count)

    def _histogram(self, rows: ir.Value, number: ir.Value) -> list[ir.Value]:
        """See ``Histogram``: bins of the smallest width 2**exponent of which ``BINS`` reach beyond the amax."""
        if self._opset < ADDING:
            raise ModelError(
                f"the model has opset {self._opset}, and histograms need {ADDING}. Export it again with opset 17 or "
                "later, or use the min/max observer."
            )
        size = self._node("Reshape", self._node("Abs", rows), self._constant([-1]))
        exponent = self._node("Add", number, self._constant(LEAST - BITS))
        width = self._node("Gather", self._powers(np.arange(LEAST, GREATEST + 2) - BITS), number, axis=0)
        bins = self._node("Cast", self._node("Div", size, width), to=int(ir.DataType.INT64))
        # NaN and infinity have no bin; the extremes tell of them.
        bins = self._node("Max", self._node("Min", bins, self._constant(BINS - 1)), self._constant(0))
        ones = self._node("Expand", self._constant([1]), self._node("Shape", bins))
        empty = self._constant(np.zeros(BINS))
        return [self._node("ScatterElements", empty, bins, ones, axis=0, reduction="add"), exponent]

    def _powers_reached(self, extremes: Sequence[ir.Value]) -> ir.Value:
        """How many powers of two from ``LEAST`` to ``GREATEST`` are not beyond the amax: a number without axes.

        Their number leads to the smallest power that is beyond it, exactly: a logarithm might be off by a bit.
        """
        sizes = [self._reduced("ReduceMax", self._node("Abs", one), [0], keepdims=1) for one in extremes]
        powers = self._powers(np.arange(LEAST, GREATEST + 1))
        reached = self._node("GreaterOrEqual", self._node("Max", *sizes), powers)
        return self._reduced("ReduceSum", self._node("Cast", reached, to=int(ir.DataType.INT64)), [0])

    def _powers(self, exponents: NDArray[np.integer[Any]]) -> ir.Value:
        return self._constant(np.ldexp(np.float32(1), exponents), np.float32)

    def _reduced(self, kind: str, x: ir.Value, axes: list[int], keepdims: int = 0) -> ir.Value:
        if self._opset >= AXES_AS_INPUT or kind == "ReduceSum":
            return self._node(kind, x, self._constant(axes), keepdims=keepdims)
        return self._node(kind, x, axes=axes, keepdims=keepdims)

    def _as_float(self, x: ir.Value) -> ir.Value:
        return x if x.dtype == ir.DataType.FLOAT else self._node("Cast", x, to=int(ir.DataType.FLOAT))

    def _index(self, name: str) -> ir.Value:
        if name not in self._values:
            self._values[name] = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64))
            self._graph.inputs.append(self._values[name])
        return self._values[name]

    def _constant(self, content: Any, dtype: type[np.generic] = np.int64) -> ir.Value:
        array: NDArray[np.generic] = np.asarray(content, dtype)
        key = dtype, array.shape, array.tobytes()
        if key not in self._constants:
            name = f"{PREFIX}{len(self._graph.initializers)}.constant"
            self._constants[key] = ir.val(name, const_value=ir.tensor(array, name=name))
            self._graph.register_initializer(self._constants[key])
        return self._constants[key]

    def _begin(self, name: str) -> ir.Value:
        """The tensor ``name``. New nodes go right behind what computes it: nothing is kept for longer than it must."""
        value = self._values[name]
        self._last = value.producer()
        return value

    def _node(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        name = f"{PREFIX}{len(self._graph)}.{kind}"
        dtype = inputs[0].type if kind in ("Reshape", "Gather") else None
        node = ir.node(kind, inputs, attributes, outputs=[ir.Value(name=name, type=dtype)], name=name)
        if self._last is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(self._last, node)
        self._last = node
        return node.outputs[0]
