"""Condition an activation so that INT8 holds it: shift, split and smooth its channels before Q, and undo it in weights.

    x  ->  Sub(shift) -> Gather(index) -> Mul(multiplier) -> Q -> DQ  ->  MatMul(codes) -> Add(bias)

Rules:
1. ``x' = (x - shift)[index] * multiplier``. The weight takes the inverse: row k of the new weight is row ``index[k]``
   of the old one times the factor by which its copies were divided in total, and ``shift @ weight`` joins the bias.
   In float this changes nothing.
2. Smoothing (Xiao et al., 2022, arXiv:2211.10438) is a multiplier per channel. Outlier channel splitting (Zhao et al.,
   2019, arXiv:1901.09504) repeats a channel r times, each copy carrying x / r. The shift (after Wei et al., 2023,
   arXiv:2304.09145) is a multiple of the channel's step, so that 0 stays exactly representable.
3. The shift is folded through the *quantised* weight: through the float weight the rounding error of the weight would
   be multiplied by the shift and become a constant error.
4. Only what does something is written: no Sub for zero shifts, no Gather for the identity, no Mul for ones.
5. The chain computes in FP32 (see ``half``) and fuses into the kernel that quantises.
6. A bias joins the constant Add behind the op, the C of a Gemm or the bias of a Conv; a Conv without one gets one,
   and behind anything else, a computed bias included, an Add is inserted.
7. Channels that ``index`` leaves out go around INT8, through a small MatMul in float that is added to the op's output.
   They are computed by columns of their own where that can be (``own_columns``), and gathered elsewhere.
8. Where none is repeated there is no Gather in front of Q either: what is left out meets rows of zeros in the weight.
9. Stairs, behind a GELU: a channel that reaches farther than the grid is repeated, each copy from a lower bias:
   ``GELU(z - c * amax)`` for c = 0, 1, 2 … Every copy ends where the grid does, by Q's own saturation, and where one
   ends the next begins: their sum is the channel, but for 0.2 at most where two meet, as GELU is no ReLU there (amax is
   3 or more, see ``design``). All meet the same row of the weight. So nothing stands before Q (see ``stairs``).
10. Channels are the last axis for MatMul and Gemm, axis 1 for Conv, where the constants are shaped [K, 1, 1].
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.site import Site, matrix_of, weight_of
from calib8.graph.values import drop_unread, drop_unread_node, insert_behind, name_of
from calib8.graph.weighted import WeightedOp
from calib8.numerics import Codes as CodeArray
from calib8.numerics import gelu
from calib8.passes.half import CONDITIONING
from calib8.passes.opset import require_opset
from calib8.passes.own_columns import own_columns
from calib8.passes.qdq_nodes import Constants, dequantised_codes, quantised_activation
from calib8.passes.stairs import stairs
from calib8.precision import INT8, Grid


@dataclass(frozen=True)
class Conditioning:
    """``shift`` [K], ``index`` [K'], ``multiplier`` [K'], and the amax of the INT8 grid behind them."""

    shift: NDArray[np.float32]
    index: NDArray[np.int64]
    multiplier: NDArray[np.float32]
    amax: float
    #: Where stairs begin [K'] (rule 9); None without such.
    offset: NDArray[np.float32] | None = None

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [n, K] -> conditioned rows [n, K']."""
        conditioned = (x - self.shift)[:, self.index] * self.multiplier
        if self.offset is not None:
            upper = self.offset > 0  # 3 or more: what is that large came out of GELU as it went in
            conditioned[:, upper] = gelu(conditioned[:, upper] - self.offset[upper])
        return conditioned

    def weight(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """[K, N] -> [K', N], so that conditioned rows times it equal ``(x - shift) @ matrix``."""
        if self.offset is not None:
            return matrix[self.index]
        copies = np.bincount(self.index, minlength=len(self.shift))[self.index]  # how often each row's channel is there
        return matrix[self.index] / (self.multiplier * copies.astype(np.float32))[:, None]

    def spread(self, taps: int) -> "Conditioning":
        """The same for rows that hold ``taps`` values of each channel."""
        index = (self.index[:, None] * taps + np.arange(taps)).reshape(-1)
        offset = None if self.offset is None else np.repeat(self.offset, taps)
        return Conditioning(np.repeat(self.shift, taps), index, np.repeat(self.multiplier, taps), self.amax, offset)

    @property
    def side(self) -> NDArray[np.int64]:
        """Channels that it leaves out: they go through a small float GEMM beside the INT8 one."""
        return np.setdiff1d(np.arange(len(self.shift)), self.index)

    @property
    def extra(self) -> int:
        """Columns added by splitting."""
        return len(self.index) + len(self.side) - len(self.shift)

    @property
    def moves(self) -> bool:
        """Whether channels are repeated or left out."""
        return not np.array_equal(self.index, np.arange(len(self.shift)))


@dataclass(frozen=True)
class Codes:
    """An op's weight: ``codes`` [K' * taps, N / groups], ``scale`` [N], and ``bias`` [N], to join its own."""

    codes: CodeArray
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Quantised:
    """A quantised site: the conditioning that its ops share, the weight of each by the op's name, and what to."""

    conditioning: Conditioning
    weights: dict[str, Codes]
    grid: Grid = INT8

    def widened(self) -> "Quantised":
        """The same without a Gather, where channels are only left out: they meet codes of 0 (rule 8)."""
        own = self.conditioning
        if own.extra or not len(own.side):
            return self
        channels = len(own.shift)
        shift, multiplier = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        shift[own.index], multiplier[own.index] = own.shift[own.index], own.multiplier

        def wide(codes: CodeArray) -> CodeArray:
            rows = np.zeros((channels, codes.shape[1]), codes.dtype)
            rows[own.index] = codes
            return rows

        weights = {name: replace(codes, codes=wide(codes.codes)) for name, codes in self.weights.items()}
        return Quantised(Conditioning(shift, np.arange(channels), multiplier, own.amax), weights, self.grid)


def condition(model: ir.Model, site: Site, quantised: Quantised) -> ir.Model:
    """Quantise ``site`` of ``model`` in place, conditioned as ``quantised`` says, and return the model."""
    graph = require_opset(model, quantised.grid.opset).graph
    constants = Constants(graph)
    channels = quantised.conditioning.side
    side = _side_channels(constants, site.activation, quantised.conditioning) if len(channels) else None
    quantised = quantised.widened()
    own = quantised.conditioning
    if own.offset is not None:
        value = stairs(constants, site.activation, own.index, own.offset)
        dequantised = quantised_activation(constants, value, own.amax, quantised.grid)
    else:
        dequantised = conditioned_activation(constants, site, own, quantised.grid)
    for op in site.ops:
        given = quantised.weights[op.name]
        name, codes = name_of(op.weight), weight_of(op, given.codes, site.groups)
        weight = dequantised_codes(constants, name, codes, given.scale, op.channel_axis, op.node)
        if side is not None:
            _add_side(constants, op, side, matrix_of(op)[channels])
        op.node.replace_input_with(0, dequantised)
        op.node.replace_input_with(1, weight)
        if given.bias.any():
            _add_bias(constants, op, given.bias)
        if name in graph.initializers:  # unless an op with the same weight came before
            drop_unread(graph, op.weight)
    drop_unread_node(graph, site.activation)
    return model


def conditioned_activation(constants: Constants, site: Site, conditioning: Conditioning, grid: Grid = INT8) -> ir.Value:
    """``x -> Sub -> Gather -> Mul -> Q -> DQ``, rules 4 and 5."""
    nodes: list[ir.Node] = []
    value = x = site.activation
    axis = -1 if site.window is None else 1
    trailing = (1,) * (0 if site.window is None else len(site.window.kernel))  # rule 10

    def append(op_type: str, name: str, array: NDArray[np.generic], **attributes: int) -> None:
        nonlocal value
        constant = constants.new(f"{x.name}_{name}", array)
        shape = None
        if value.shape is not None:
            sizes = list(value.shape)
            sizes[axis] = len(array)
            shape = ir.Shape(sizes)
        free = constants.free(f"{constant.name}_applied")
        output = ir.Value(name=free, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        nodes.append(
            ir.node(op_type, [value, constant], attributes, outputs=[output], name=f"{constant.name}_{op_type}")
        )
        nodes[-1].meta[CONDITIONING] = True
        value = output

    if np.any(conditioning.shift):
        append("Sub", "shift", conditioning.shift.reshape(-1, *trailing))
    if conditioning.moves:
        append("Gather", "index", conditioning.index, axis=axis)
    if np.any(conditioning.multiplier != 1):
        append("Mul", "multiplier", conditioning.multiplier.reshape(-1, *trailing))
    insert_behind(constants.graph, x, nodes)
    return quantised_activation(constants, value, conditioning.amax, grid)


def _add_bias(constants: Constants, op: WeightedOp, extra: NDArray[np.float32]) -> None:
    """Rule 6."""
    slot = _bias_slot(op)
    if slot is None and op.kind == "Conv" and (len(op.node.inputs) < 3 or op.node.inputs[2] is None):
        op.node.resize_inputs(3)
        op.node.replace_input_with(2, constants.new(f"{op.name}_correction", extra))
        return
    if slot is None:
        trailing = (1,) * (op.weight_array().ndim - 2)  # of a Conv, behind a bias that is computed
        _insert_add(constants, op, constants.new(f"{op.name}_correction", extra.reshape(-1, *trailing)), op.node)
        return
    node, index, own = slot
    assert own.const_value is not None
    joined = (own.const_value.numpy() + extra).astype(np.float32)
    node.replace_input_with(index, constants.new(f"{own.name}_corrected", joined))
    if own.is_initializer():
        drop_unread(constants.graph, own)


def _bias_slot(op: WeightedOp) -> tuple[ir.Node, int, ir.Value] | None:
    """Where a constant bias of ``op`` is read, as node, input number and value; None where there is none."""
    if op.kind in ("Gemm", "Conv"):  # a site's Gemm has beta 1
        own = op.node.inputs[2] if len(op.node.inputs) > 2 else None
        return (op.node, 2, own) if own is not None and own.const_value is not None else None
    output = op.node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0][0].op_type != "Add":
        return None
    reader, side = uses[0][0], 1 - uses[0][1]
    own = reader.inputs[side]
    if own is None or own.const_value is None or own.const_value.numpy().shape[-1:] != (op.channels,):
        return None
    return reader, side, own


def _side_channels(constants: Constants, x: ir.Value, conditioning: Conditioning) -> ir.Value:
    """Those of ``x`` that are left out, as they are (rule 7)."""
    channels = conditioning.side
    if (columns := own_columns(constants, x, len(conditioning.shift), channels)) is not None:
        return columns
    index = constants.new(f"{x.name}_side", channels)
    shape = None if x.shape is None else ir.Shape([*x.shape[:-1], len(channels)])
    output = ir.Value(name=constants.free(f"{x.name}_outliers"), type=x.type, shape=shape)
    node = ir.node("Gather", [x, index], {"axis": -1}, outputs=[output], name=f"{index.name}_Gather")
    insert_behind(constants.graph, x, node)
    return output


def _add_side(constants: Constants, op: WeightedOp, side: ir.Value, rows: NDArray[np.float32]) -> None:
    """Add ``side @ rows`` to what the op computes."""
    weight = constants.new(f"{op.name}_side_weight", rows)
    shape = op.node.outputs[0].shape
    product = ir.Value(name=constants.free(f"{op.name}_side"), type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    node = ir.node("MatMul", [side, weight], outputs=[product], name=constants.free(f"{op.name}_Side"))
    constants.graph.insert_after(op.node, node)
    _insert_add(constants, op, product, node)


def _insert_add(constants: Constants, op: WeightedOp, extra: ir.Value, behind: ir.Node) -> None:
    """Add ``extra`` to the op's output. The sum takes over the name, since that may be an output's."""
    output = op.node.outputs[0]
    name = name_of(output)
    output.name = constants.free(f"{name}_uncorrected")
    total = ir.Value(name=name, type=output.type, shape=output.shape)
    output.replace_all_uses_with(total, replace_graph_outputs=True)
    correction = constants.free(f"{op.name}_Correction")
    constants.graph.insert_after(behind, ir.node("Add", [output, extra], outputs=[total], name=correction))
