"""Fold what only scales and shifts the channels of a convolution into its weight and bias.

    Conv(W, b) -> BatchNormalization, or Add, Sub, Mul, Div by a number for each channel   becomes   Conv(s W, s b + t)

Exporters of PyTorch fold norms, those of Paddle and TensorFlow often do not. A compiler folds them too, but no longer
once the weight comes as codes: then they are computed, and the scales of the weight are not those that its rows have.
Reference: Jacob et al., 2018 (arXiv:1712.05877), section 3.2.

Rules:
1. The convolution's weight and bias are constants, and nothing else reads what it computes. Several such ops in a row
   are folded one after the other.
2. A ConvTranspose of several groups has no axis of its output channels, and stays.
3. What is folded is computed in FP64. Where a weight would be infinite or NaN, nothing is folded.
4. The convolution's output takes the name of the last op's; a weight that others read stays theirs.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import convenience

from calib8.graph.values import drop_unread, op_of
from calib8.passes.qdq_nodes import Constants

#: The axis of the weight that runs over output channels.
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def fold_affine(model: ir.Model) -> ir.Model:
    """Fold, in place, whatever the rules allow, and return the prepared model."""
    constants = Constants(model.graph)
    for node in list(model.graph):
        if op_of(node) in CHANNEL_AXIS and _is_constant(node):
            while (affine := _behind(node)) is not None and _fold(constants, node, *affine):
                pass
    return model


def _is_constant(node: ir.Node) -> bool:
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if op_of(node) == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return False  # rule 2
    arrays = [value for value in (weight, bias) if value is not None]
    return all(value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT for value in arrays)


def _behind(node: ir.Node) -> Affine | None:
    """Scale and shift, each [channels], that the only reader of ``node`` applies; None if it does something else."""
    value, weight = node.outputs[0], node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    (reader, index), shape = next(iter(uses)), weight.const_value.shape.numpy()
    if reader.graph is not node.graph:
        return None
    if op_of(reader) == "BatchNormalization":
        return _norm(reader) if index == 0 else None
    other = reader.inputs[1 - index] if op_of(reader) in ("Add", "Div", "Mul", "Sub") else None
    numbers = _of_channels(other, shape[CHANNEL_AXIS[op_of(node)]], len(shape)) if other is not None else None
    return None if numbers is None else _arithmetic(op_of(reader), index, numbers)


def _arithmetic(kind: str, index: int, numbers: NDArray[np.float64]) -> Affine | None:
    """What ``kind`` does to its operand ``index`` if ``numbers`` are the other one."""
    ones, zeros = np.ones_like(numbers), np.zeros_like(numbers)
    with np.errstate(divide="ignore"):
        known = {
            ("Add", 0): (ones, numbers),
            ("Add", 1): (ones, numbers),
            ("Div", 0): (1 / numbers, zeros),
            ("Mul", 0): (numbers, zeros),
            ("Mul", 1): (numbers, zeros),
            ("Sub", 0): (ones, -numbers),
            ("Sub", 1): (-ones, numbers),
        }
    return known.get((kind, index))


def _of_channels(value: ir.Value, channels: int, rank: int) -> NDArray[np.float64] | None:
    """The constant ``value`` as one number for each channel of [N, channels, …], if it is that."""
    if value.const_value is None:
        return None
    array = value.const_value.numpy()
    if array.ndim > rank:
        return None
    array = array.reshape([1] * (rank - array.ndim) + list(array.shape))
    if array.shape[1] not in (1, channels) or array.size != array.shape[1]:
        return None
    return np.broadcast_to(array.reshape(-1), channels).astype(np.float64)


def _norm(node: ir.Node) -> Affine | None:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta."""
    arrays = [
        value.const_value.numpy() for value in node.inputs[1:5] if value is not None and value.const_value is not None
    ]
    if len(arrays) != 4 or len(node.outputs) > 1 or node.attributes.get_int("training_mode", 0) == 1:
        return None
    gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays)
    with np.errstate(divide="ignore", invalid="ignore"):  # see rule 3
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return scale, beta - mean * scale


def _fold(constants: Constants, node: ir.Node, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> bool:
    """Scale the weight and bias of ``node`` and take its reader away; False where the numbers forbid it."""
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert weight is not None
    assert weight.const_value is not None
    array, axis = weight.const_value.numpy(), CHANNEL_AXIS[op_of(node)]
    before = np.float64(0) if bias is None or bias.const_value is None else bias.const_value.numpy().astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        sized = scale.reshape([-1 if dim == axis else 1 for dim in range(array.ndim)])
        folded = (array * sized).astype(np.float32), (before * scale + shift).astype(np.float32)
    if not all(np.isfinite(one).all() for one in folded):
        return False  # rule 3
    node.resize_inputs(3)
    for index, (old, new) in enumerate(zip((weight, bias), folded, strict=True), start=1):
        if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
            old.const_value = ir.tensor(new, name=old.name)
        else:
            name = f"{node.name}_bias" if old is None else f"{old.name}_{node.name}"
            node.replace_input_with(index, constants.new(name, new))
    _take_away(constants.graph, node)
    return True


def _take_away(graph: ir.Graph, node: ir.Node) -> None:
    """The only reader of what ``node`` computes."""
    value = node.outputs[0]
    ((reader, _),) = value.uses()
    last = reader.outputs[0]
    read = [one for one in reader.inputs if one is not None and one is not value]
    convenience.replace_all_uses_with(last, value, replace_graph_outputs=True)
    graph.remove(reader, safe=True)
    value.name, value.shape = last.name, last.shape
    value.meta.clear()  # what it was called says nothing of what it is now
    value.meta.update(last.meta)
    for one in read:
        if one.const_value is not None:
            drop_unread(graph, one)
