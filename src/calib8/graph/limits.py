"""How long a sequence the model can take: the size of its position table, found by asking the graph itself.

TensorRT builds and runs beyond that limit without an error and reads whatever lies behind the table.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from calib8.data.inputs import MASK_NAMES, InputSpec
from calib8.graph.inputs import declared_inputs, table_rows
from calib8.graph.running_sum import restore
from calib8.graph.weighted import weighted_ops

#: Lengths at which the computation of an index is known to work, the first that does.
SHORT = (8, 4, 2)
#: Every table is asked about at least one more than this: a buffer of positions may end before the table it indexes.
LONG = 1024


def dimension_limits(model: ir.Model) -> dict[str, int]:
    """Largest size of each dynamic dimension that a position table bounds, by the name ``declared_inputs`` gives it.

    A position table is a constant that is indexed by a computed position (not by an input directly), where a longer
    sequence leads to an index behind its end, or to no index at all because a constant buffer of positions has ended.
    Tables of relative positions take every length: their index saturates. Asked about are the dynamic dimensions
    behind the batch of the inputs that the position is computed from, one by one.
    """
    specs = {spec.name: spec for spec in declared_inputs(model)}
    weighted = {op.node for op in weighted_ops(model)}
    limits: dict[str, int] = {}
    for rows, index in _tables(model):
        nodes, names = _ancestry(index)
        feeding = [spec for name, spec in specs.items() if name in names]
        dimensions = {dim for spec in feeding for dim in spec.shape[1:] if isinstance(dim, str)}
        if not dimensions or nodes & weighted:
            continue
        probe = _Probe(model, index, feeding, rows)
        for dim in dimensions:
            if (limit := probe.limit(dim)) is not None:
                limits[dim] = min(limit, limits.get(dim, limit))
    return dict(sorted(limits.items()))


def _tables(model: ir.Model) -> list[tuple[int, ir.Value]]:
    """(rows of a constant table, computed index) of every Gather along axis 0."""
    found = []
    for node in model.graph:
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        rows, index = table_rows(node.inputs[0]), node.inputs[1]
        if rows is not None and index is not None and index.producer() is not None:
            found.append((rows, index))
    return found


def _ancestry(value: ir.Value) -> tuple[set[ir.Node], set[str]]:
    """The nodes that compute ``value``, and the names of the model's inputs among what they read."""
    nodes: set[ir.Node] = set()
    inputs: set[str] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        producer = current.producer()
        if producer is None:
            inputs.add(current.name or "")
        elif producer not in nodes:
            nodes.add(producer)
            stack.extend(source for source in producer.inputs if source is not None)
    return nodes, inputs


class _Probe:
    """Evaluates the few nodes that compute one index, for inputs of any size."""

    def __init__(self, model: ir.Model, index: ir.Value, specs: list[InputSpec], rows: int) -> None:
        self.model, self.index, self.specs, self.rows = model, index, specs, rows

    @cached_property
    def evaluator(self) -> ReferenceEvaluator:
        names = {spec.name for spec in self.specs}
        inputs = [value for value in self.model.graph.inputs if value.name in names]
        graph = ir.convenience.extract(self.model.graph, inputs, [self.index])
        model = restore(ir.Model(graph, ir_version=self.model.ir_version))  # asked about are thousands of positions
        return ReferenceEvaluator(ir.to_proto(model))

    def limit(self, dim: str) -> int | None:
        """The largest size of ``dim`` that fits; None if all do, or if the index cannot be computed here."""
        low = next((length for length in SHORT if self.fits(dim, length)), None)
        high = max(self.rows, LONG) + 1
        if low is None or self.fits(dim, high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(dim, middle) else (low, middle)
        return low

    def fits(self, dim: str, length: int) -> bool:
        """Whether every one of ``length`` positions along ``dim`` has an index inside the table."""
        largest = [found for token in (0, 2, 3) if (found := self._largest(dim, length, token)) is not None]
        return bool(largest) and max(largest) < self.rows  # one of the tokens is not the padding token

    def _largest(self, dim: str, length: int, token: int) -> int | None:
        sizes = {dim: length}
        try:
            feeds: Any = {spec.name: _feed(spec, sizes, token) for spec in self.specs}
            with np.errstate(all="ignore"):  # log(0) in a bucket formula is the model's own business
                index: Any = self.evaluator.run(None, feeds)[0]  # type: ignore[index]
        except Exception:  # an operator without a reference, or a length that the graph cannot take
            return None
        covered = index.ndim == 0 or max(index.shape) >= length  # a buffer that has ended yields fewer positions
        return int(index.max()) if covered else None


def _feed(spec: InputSpec, sizes: Mapping[str, int], token: int) -> NDArray[np.generic]:
    """One sample of real positions; a dimension that is not in ``sizes`` has size 1."""
    shape = [dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in spec.shape]
    return np.full(shape, 1 if spec.name in MASK_NAMES else token, spec.dtype)
