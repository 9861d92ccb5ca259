"""Sites: a tensor together with the weighted ops that read it. They share one INT8 grid and one conditioning.

Q, K and V read one tensor: treated alike, the builder still merges them into one GEMM.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import name_of
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.graph.window import Window, window_of
from calib8.numerics import Codes


@dataclass(frozen=True)
class Site:
    """One activation tensor and readers that see it in the same way: as rows times a matrix.

    MatMul and Gemm read rows of the last axis. A Conv reads patches: ``window`` says which, and its channels are axis
    1. With ``groups`` the channels, and the outputs, fall into that many blocks of their own.
    """

    activation: ir.Value
    ops: tuple[WeightedOp, ...]
    window: Window | None = None
    groups: int = 1

    @property
    def tensor(self) -> str:
        """Name of the tensor."""
        return name_of(self.activation)

    @property
    def name(self) -> str:
        """Name of the site: that of its first op."""
        return self.ops[0].name

    @property
    def view(self) -> Window | None:
        """What makes a row of more than the channels of one position; None if nothing does."""
        return self.window if self.window and (self.window.taps > 1 or self.window.padded) else None

    @property
    def taps(self) -> int:
        """Values that a row holds of each channel."""
        return self.window.taps if self.window else 1

    def matrix(self) -> NDArray[np.float32]:
        """The weights of all readers side by side, [channels * taps, outputs / groups], a channel's taps together."""
        return np.concatenate([matrix_of(op, self.groups) for op in self.ops], axis=1)


def sites(model: ir.Model, chosen: set[str] | None = None) -> list[Site]:
    """The sites of the prepared ``model``, in graph order; only readers named in ``chosen`` if it is given."""
    found: dict[tuple[object, ...], Site] = {}
    for op in weighted_ops(model):
        if chosen is not None and op.name not in chosen:
            continue
        if (own := _site_of(op)) is None:
            continue
        alone = op.name if own.groups > 1 else ""  # blocks of several ops would not line up
        key = (own.tensor, own.window, own.groups, alone)
        found[key] = Site(own.activation, (*found[key].ops, op), own.window, own.groups) if key in found else own
    return list(found.values())


def _site_of(op: WeightedOp) -> Site | None:
    """The op alone as a site; None for a scaled Gemm, whose bias cannot be corrected by adding to it, for a Conv whose
    padding depends on the input's size, and for what multiplies the last axis of a tensor whose axis 1 a Conv reads."""
    attributes = op.node.attributes
    if op.kind == "Gemm" and not attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0:
        return None
    if op.kind != "Conv":
        read_by_conv = any(reader.op_type == "Conv" for reader, _ in op.activation.uses())
        return None if read_by_conv else Site(op.activation, (op,))
    window = window_of(op.node, op.weight_array().shape[2:])
    return None if window is None else Site(op.activation, (op,), window, attributes.get_int("group", 1))


def matrix_of(op: WeightedOp, groups: int = 1) -> NDArray[np.float32]:
    """The weight as [channels * taps, outputs / groups], whatever the node's own layout."""
    weight = op.weight_array()
    if op.kind != "Conv":
        return weight if op.channel_axis == 1 else weight.T
    blocks = weight.reshape(groups, len(weight) // groups, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(blocks).reshape(-1, len(weight) // groups)


def weight_of(op: WeightedOp, matrix: Codes, groups: int = 1) -> Codes:
    """The reverse of ``matrix_of``; ``matrix`` may have more rows than the op's own, for channels that were split."""
    if op.kind != "Conv":
        return np.ascontiguousarray(matrix if op.channel_axis == 1 else matrix.T)
    outputs, _, *kernel = op.weight_array().shape
    blocks = matrix.reshape(groups, -1, outputs // groups).transpose(0, 2, 1)
    return np.ascontiguousarray(blocks).reshape(outputs, -1, *kernel)
