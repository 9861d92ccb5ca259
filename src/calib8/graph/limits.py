"""How long a sequence the model can take: the size of its position table, found by asking the graph itself.

TensorRT builds and runs beyond that limit without an error and reads whatever lies behind the table.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from calib8.data.inputs import INTEGERS, MASK_NAMES, InputSpec, input_specs, table_rows
from calib8.graph.weighted import weighted_ops

#: Two lengths to compare. Relative-position buckets saturate well below the first.
PROBES = (192, 320)


def dimension_limits(model: ir.Model) -> dict[str, int]:
    """Largest size of each symbolic dimension that a position table bounds, by dimension name.

    A constant table that is indexed by a computed position (not by an input directly) is a position table if the
    largest index grows by one for every position. Its rows then bound every symbolic dimension behind the batch.
    """
    specs = input_specs(model)
    names = {d for spec in specs for d in spec.shape[1:] if isinstance(d, str)}
    if not names or any(spec.dtype not in INTEGERS for spec in specs):
        return {}
    limits = [limit for rows, index in _tables(model) if (limit := _limit(model, rows, index, specs)) is not None]
    return dict.fromkeys(sorted(names), min(limits)) if limits else {}


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


def _limit(model: ir.Model, rows: int, index: ir.Value, specs: tuple[InputSpec, ...]) -> int | None:
    shorter, longer = (_largest_index(model, index, specs, length) for length in PROBES)
    if shorter is None or longer is None or longer - shorter != PROBES[1] - PROBES[0]:
        return None
    return rows - 1 - (shorter - PROBES[0])


def _largest_index(model: ir.Model, index: ir.Value, specs: tuple[InputSpec, ...], length: int) -> int | None:
    """Largest index that ``length`` real positions lead to, by evaluating the few nodes that compute it."""
    if _ancestors(index) & {op.node for op in weighted_ops(model)}:
        return None
    evaluator = _evaluator(model, index)
    results = []
    for token in (0, 2, 3):  # one of them is not the padding token
        feeds: Any = {}
        for spec in specs:
            shape = [1, *(length if isinstance(d, str) or d is None else d for d in spec.shape[1:])]
            feeds[spec.name] = np.full(shape, 1 if spec.name in MASK_NAMES else token, spec.dtype)
        try:
            with np.errstate(all="ignore"):  # log(0) in a bucket formula is the model's own business
                results.append(int(np.max(evaluator.run(None, feeds)[0])))  # type: ignore[index]
        except Exception:
            continue
    return max(results, default=None)


def _ancestors(value: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    stack = [value.producer()]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack.extend(source.producer() for source in node.inputs if source is not None)
    return found


def _evaluator(model: ir.Model, value: ir.Value) -> ReferenceEvaluator:
    graph = ir.convenience.extract(model.graph, model.graph.inputs, [value])
    return ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=model.ir_version)))
