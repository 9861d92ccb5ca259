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
6. A bias joins the constant Add behind the op, or the C of a Gemm; where there is none, an Add is inserted.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.site import Site
from calib8.graph.values import drop_unread, name_of
from calib8.graph.weighted import WeightedOp
from calib8.passes.half import CONDITIONING
from calib8.passes.qdq_nodes import Constants, dequantised_codes, quantised_activation


@dataclass(frozen=True)
class Conditioning:
    """``shift`` [K], ``index`` [K'], ``multiplier`` [K'], and the amax of the INT8 grid behind them."""

    shift: NDArray[np.float32]
    index: NDArray[np.int64]
    multiplier: NDArray[np.float32]
    amax: float

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [n, K] -> conditioned rows [n, K']."""
        return (x - self.shift)[:, self.index] * self.multiplier

    def weight(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """[K, N] -> [K', N], so that conditioned rows times it equal ``(x - shift) @ matrix``."""
        copies = np.bincount(self.index, minlength=len(self.shift))[self.index]
        return matrix[self.index] / (self.multiplier * copies.astype(np.float32))[:, None]

    @property
    def extra(self) -> int:
        """Columns added by splitting."""
        return len(self.index) - len(self.shift)


@dataclass(frozen=True)
class Quantised:
    """A site's weights in INT8: ``codes`` [K', N], ``scale`` [N], and what to add to the bias, ``bias`` [N]."""

    conditioning: Conditioning
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


def condition(model: ir.Model, site: Site, quantised: Quantised) -> ir.Model:
    """Quantise ``site`` of ``model`` in place, conditioned as ``quantised`` says, and return the model."""
    graph = model.graph
    constants = Constants(graph)
    dequantised = _activation(constants, site.activation, quantised.conditioning)
    first = 0
    for op in site.ops:
        part = slice(first, first + op.channels)
        first = part.stop
        codes = quantised.codes[:, part]
        codes = codes if op.channel_axis == 1 else codes.T
        name, scale = name_of(op.weight), quantised.scale[part]
        weight = dequantised_codes(constants, name, np.ascontiguousarray(codes), scale, op.channel_axis, op.node)
        op.node.replace_input_with(0, dequantised)
        op.node.replace_input_with(1, weight)
        if np.any(quantised.bias[part]):
            _add_bias(constants, op, quantised.bias[part])
        if name in graph.initializers:  # unless an op with the same weight came before
            drop_unread(graph, op.weight)
    return model


def _activation(constants: Constants, x: ir.Value, conditioning: Conditioning) -> ir.Value:
    """``x -> Sub -> Gather -> Mul -> Q -> DQ``, rules 4 and 5."""
    nodes: list[ir.Node] = []
    value, width = x, len(conditioning.shift)

    def append(op_type: str, name: str, array: NDArray[np.generic], **attributes: int) -> None:
        nonlocal value
        constant = constants.new(f"{x.name}_{name}", array)
        shape = None if value.shape is None else ir.Shape([*value.shape[:-1], len(array)])
        free = constants.free(f"{constant.name}_applied")
        output = ir.Value(name=free, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        nodes.append(
            ir.node(op_type, [value, constant], attributes, outputs=[output], name=f"{constant.name}_{op_type}")
        )
        nodes[-1].meta[CONDITIONING] = True
        value = output

    if np.any(conditioning.shift):
        append("Sub", "shift", conditioning.shift)
    if conditioning.extra or np.any(conditioning.index != np.arange(width)):
        append("Gather", "index", conditioning.index, axis=-1)
    if np.any(conditioning.multiplier != 1):
        append("Mul", "multiplier", conditioning.multiplier)
    graph, producer = constants.graph, x.producer()
    if nodes and producer is None:
        graph.insert_before(graph[0], nodes)
    elif nodes and producer is not None:
        graph.insert_after(producer, nodes)
    return quantised_activation(constants, value, conditioning.amax)


def _add_bias(constants: Constants, op: WeightedOp, extra: NDArray[np.float32]) -> None:
    """Rule 6."""
    slot = _bias_slot(op)
    if slot is None:
        _insert_add(constants, op, extra)
        return
    node, index, own = slot
    assert own.const_value is not None
    joined = (own.const_value.numpy() + extra).astype(np.float32)
    node.replace_input_with(index, constants.new(f"{own.name}_corrected", joined))
    if own.is_initializer():
        drop_unread(constants.graph, own)


def _bias_slot(op: WeightedOp) -> tuple[ir.Node, int, ir.Value] | None:
    """Where a constant bias of ``op`` is read, as node, input number and value; None where there is none."""
    if op.kind == "Gemm":  # a site's Gemm has beta 1
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


def _insert_add(constants: Constants, op: WeightedOp, extra: NDArray[np.float32]) -> None:
    """Add behind the op. The sum takes over the name, since that may be an output's."""
    output = op.node.outputs[0]
    name = name_of(output)
    constant = constants.new(f"{op.name}_correction", extra)
    output.name = constants.free(f"{name}_uncorrected")
    total = ir.Value(name=name, type=output.type, shape=output.shape)
    output.replace_all_uses_with(total, replace_graph_outputs=True)
    correction = constants.free(f"{op.name}_Correction")
    constants.graph.insert_after(op.node, ir.node("Add", [output, constant], outputs=[total], name=correction))
