"""How far the float tensors of a model go, as calibration saw it, and which of them FP16 cannot hold.

Rules:
1. A tensor is beyond FP16 if it passed half of 65,504: other data go farther than the calibration data did.
2. A tensor is below FP16 if all of it lies under 2**-14, the least normal number. Where the share of a value counts and
   not its size (what is divided by, what a root or logarithm is taken of), the smallest value must not: so must not
   what it is a sum or product of. A tensor of both signs passes zero anyway.
3. On the way to a Softmax nothing is too low: that is how masks say minus infinity (see ``half``).
4. What was NaN or infinite in FP32 says nothing.
5. Moving a tensor changes no value, and some operators keep to the range of what they read, or to their own: those are
   not observed. What a pass adds goes as far as what it reads.
"""

from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, FiniteFloat

from calib8.graph.values import dropped_identities, name_of, op_of
from calib8.passes.half_rules import (
    CARRYING,
    FP32,
    GEMMS,
    KEEPING,
    LARGEST,
    REACH,
    SHAPE_READERS,
    SOFTMAX,
    floats_of,
    scoring_nodes,
)  # fmt: skip

#: How much farther than in calibration a tensor may go.
HEADROOM = 2.0
LEAST_NORMAL = 2.0**-14
#: Operators whose results lie between -1 and 1.
BOUNDED = ("Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh")
#: Operator -> its input of which the share counts.
SHARES = {"Div": 1, "Log": 0, "Reciprocal": 0, "Sqrt": 0}


class Reach(BaseModel):
    """The least and the greatest value of a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: FiniteFloat
    maximum: FiniteFloat

    @property
    def is_tiny(self) -> bool:
        """Rule 2, of a tensor whose size counts."""
        return 0 < max(-self.minimum, self.maximum) < LEAST_NORMAL

    @property
    def has_tiny_shares(self) -> bool:
        """Rule 2, of a tensor whose share counts. Nothing but zero is zero in FP16, too."""
        if self.minimum == self.maximum == 0:
            return False
        return -LEAST_NORMAL < self.maximum <= 0 or 0 <= self.minimum < LEAST_NORMAL

    def passes_half(self, *, scores: bool) -> bool:
        """Rule 1, or rule 3 for what ``scores``."""
        limit = LARGEST / HEADROOM
        return self.maximum > limit or (self.minimum < -limit and not scores)


def observable(model: ir.Model) -> list[ir.Value]:
    """The float tensors of the prepared ``model`` whose range is to be seen (rule 5), in graph order."""
    return list(_observable(model.graph))


def unfit_for_half(model: ir.Model, seen: Mapping[str, Reach]) -> dict[str, Reach]:
    """What FP16 does not hold, of what was ``seen`` of the ``observable`` tensors of ``model``, by name."""
    scoring, below = scoring_nodes(model.graph), _below(model.graph, seen)
    return {
        name: reach
        for value in observable(model)
        if (reach := seen.get(name := name_of(value))) is not None
        and (reach.is_tiny or value in below or reach.passes_half(scores=_scores(value, scoring)))
    }


def mark_reach(model: ir.Model, unfit: Collection[str]) -> ir.Model:
    """Tell the tensors of ``model`` which of them FP16 does not hold, in place, before any pass; return it."""
    for value in observable(model):
        names = {name_of(value), *dropped_identities(value)}
        value.meta[REACH] = not names.isdisjoint(unfit)
    return model


def _observable(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from (value for value in graph.inputs if value.dtype == FP32)
    for node in graph:
        if op_of(node) not in (*KEEPING, *BOUNDED):
            yield from (value for value in node.outputs if value.dtype == FP32 and value.name)


def _below(graph: ir.Graph, seen: Mapping[str, Reach]) -> set[ir.Value]:
    """Tensors whose share counts, and that have values below FP16's normal ones."""
    counting: set[ir.Value] = set()
    below: set[ir.Value] = set()
    for node in reversed(list(graph)):  # readers before producers
        for value in counting.intersection(node.outputs):
            reach = seen.get(name_of(value))
            if op_of(node) in KEEPING or (reach is not None and reach.has_tiny_shares):
                below.add(value)
        if below.intersection(node.outputs) and op_of(node) in (*KEEPING, *CARRYING, *GEMMS):
            counting.update(floats_of(node))
        if (index := SHARES.get(op_of(node))) is not None and (operand := node.inputs[index]) is not None:
            counting.add(operand)
    inputs = counting.intersection(graph.inputs)
    return below | {v for v in inputs if (reach := seen.get(name_of(v))) is not None and reach.has_tiny_shares}


def _scores(value: ir.Value, scoring: set[ir.Node]) -> bool:
    readers = [reader for reader, _ in value.uses() if reader.op_type not in SHAPE_READERS]
    return bool(readers) and all(reader in scoring or reader.op_type in SOFTMAX for reader in readers)
