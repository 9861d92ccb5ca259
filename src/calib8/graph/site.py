"""Sites: a tensor together with the weighted ops that read it. They share one INT8 grid and one conditioning.

Q, K and V read one tensor: treated alike, the builder still merges them into one GEMM.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.weighted import WeightedOp, weighted_ops


@dataclass(frozen=True)
class Site:
    """One activation tensor [..., K] and its readers, all MatMul or Gemm with weights of K rows."""

    activation: ir.Value
    ops: tuple[WeightedOp, ...]

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.activation.name or ""

    def matrix(self) -> NDArray[np.float32]:
        """The weights of all readers side by side, [K, sum of N]."""
        return np.concatenate([matrix_of(op) for op in self.ops], axis=1)


def sites(model: ir.Model, chosen: set[str] | None = None) -> list[Site]:
    """The sites of the prepared ``model``, in graph order; only readers named in ``chosen`` if it is given."""
    found: dict[str, list[WeightedOp]] = {}
    for op in weighted_ops(model):
        if _conditionable(op) and (chosen is None or op.name in chosen):
            found.setdefault(op.activation.name or "", []).append(op)
    return [Site(ops[0].activation, tuple(ops)) for ops in found.values()]


def _conditionable(op: WeightedOp) -> bool:
    """MatMul, and Gemm without scaling: a bias can then be corrected by adding to it."""
    attributes = op.node.attributes
    plain = attributes.get_float("alpha", 1.0) == 1.0 and attributes.get_float("beta", 1.0) == 1.0
    return op.kind == "MatMul" or (op.kind == "Gemm" and plain)


def matrix_of(op: WeightedOp) -> NDArray[np.float32]:
    """The weight as [K, N], whatever the node's own layout."""
    weight = op.weight_array()
    return weight if op.channel_axis == 1 else weight.T
