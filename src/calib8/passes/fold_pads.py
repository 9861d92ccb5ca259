"""Let convolutions and poolings pad by themselves.

    Pad with zeros -> Conv                    becomes   Conv(pads)
    Pad with what is at the edge -> MaxPool   becomes   MaxPool(pads)

Models brought over from TensorFlow have a Pad wherever it pads one side more than the other. It is a kernel of its own,
and keeps the codes of what it pads out of the kernel that computes them: of a ResNet-50 two of them took a seventh of
the time in INT8 (TensorRT 10.6).

Rules:
1. A Pad in space only, of constant counts, none below zero. What is computed of sizes is constant where those are.
2. A Conv pads with zeros. A MaxPool pads with minus infinity, and each of its windows sees something: the same as zeros
   where nothing is below zero, and as the edge, which a window without gaps sees too. An AveragePool pads with zeros
   that it counts, and both sides alike: TensorRT is said to have no other.
3. A Transpose in between is passed, if all that read it can pad.
4. Who else reads the Pad keeps it. Where it goes, its name is another one of what it padded, whose range it has.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from calib8.graph.values import IDENTITIES, dropped_identities, name_of, op_of
from calib8.passes.fold_constants import fold_constants

#: How many values are put in front of and behind each axis, [2, axes].
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class _Pad:
    """What a Pad pads, by how much, and whether with zeros or with what is at the edge."""

    source: ir.Value
    counts: Counts
    zeros: bool


def fold_pads(model: ir.Model) -> ir.Model:
    """Fold, in place, whatever the rules allow, and return ``model``, of which the shapes are inferred."""
    found = [node for node in model.graph if op_of(node) == "Pad"]
    if not found:
        return model
    if any(value is not None and value.const_value is None for node in found for value in node.inputs[1:]):
        fold_constants(model, _shapes(model))
    for node in found:
        pad = _pad(node)
        if pad is None:
            continue
        for reader, index in list(node.outputs[0].uses()):
            if op_of(reader) == "Transpose":
                _fold_behind(reader, pad)
            elif index == 0 and _takes(reader, pad):
                _give(reader, pad.counts)
                reader.replace_input_with(0, pad.source)
        padded = node.outputs[0]
        if not padded.uses() and not padded.is_graph_output():
            pad.source.meta[IDENTITIES] = [*dropped_identities(pad.source), name_of(padded)]
            model.graph.remove(node, safe=True)
    common.RemoveUnusedNodesPass()(model)  # what computed the counts
    return model


def _shapes(model: ir.Model) -> dict[str, ir.Shape]:
    """What follows from the shapes of the inputs alone."""
    alone = model.clone()
    for node in alone.graph:
        for value in node.outputs:
            value.shape = None
    common.ShapeInferencePass(strict_mode=False)(alone)
    values = [*alone.graph.inputs, *(value for node in alone.graph for value in node.outputs)]
    return {name_of(value): value.shape for value in values if value.shape is not None}


def _pad(node: ir.Node) -> _Pad | None:
    """Rule 1."""
    mode, source = node.attributes.get_string("mode", "constant"), node.inputs[0]
    given = [value for value in node.inputs[1:] if value is not None]
    constants = [value.const_value.numpy() for value in given if value.const_value is not None]
    names_axes = len(node.inputs) > 3 and node.inputs[3] is not None
    if source is None or names_axes or not constants or len(constants) < len(given):
        return None
    counts = constants[0].reshape(2, -1)
    zeros = mode == "constant" and not any(array.any() for array in constants[1:])
    known = (zeros or mode == "edge") and bool((counts >= 0).all()) and not counts[:, 0].any()
    return _Pad(source, counts, zeros) if known else None


def _fold_behind(transpose: ir.Node, pad: _Pad) -> None:
    """Rule 3."""
    value = transpose.outputs[0]
    order = list(transpose.attributes.get_ints("perm", range(pad.counts.shape[1])[::-1]))
    turned, uses = replace(pad, counts=pad.counts[:, order]), list(value.uses())
    if value.is_graph_output() or not all(index == 0 and _takes(reader, turned) for reader, index in uses):
        return
    for reader, _ in uses:
        _give(reader, turned.counts)
    transpose.replace_input_with(0, pad.source)
    value.shape = None if pad.source.shape is None else ir.Shape([pad.source.shape[axis] for axis in order])


def _takes(node: ir.Node, pad: _Pad) -> bool:
    """Whether ``node`` can pad so, beside what it pads already (rule 2)."""
    kind, attributes = op_of(node), node.attributes
    if pad.counts[:, :2].any() or attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    if kind == "Conv":
        return pad.zeros
    if kind not in ("AveragePool", "MaxPool") or attributes.get_int("ceil_mode", 0) != 0 or len(node.outputs) > 1:
        return False
    sees_some = bool((_padded(node, pad.counts).reshape(2, -1) < attributes.get_ints("kernel_shape")).all())
    has_gaps = any(step != 1 for step in attributes.get_ints("dilations", ()))
    if kind == "MaxPool":
        return sees_some and not has_gaps and (not pad.zeros or _is_never_negative(pad.source))
    before, behind = _padded(node, pad.counts).reshape(2, -1)
    counts_zeros = attributes.get_int("count_include_pad", 0) == 1 or not any(_own(node, pad.counts))
    alike = bool((before == behind).all())
    return sees_some and not has_gaps and pad.zeros and counts_zeros and alike


def _is_never_negative(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and op_of(producer) == "Transpose" and producer.inputs[0] is not None:
        return _is_never_negative(producer.inputs[0])
    return producer is not None and op_of(producer) == "Relu"


def _give(node: ir.Node, counts: Counts) -> None:
    node.attributes["pads"] = ir.AttrInt64s("pads", _padded(node, counts).tolist())
    node.attributes.pop("auto_pad", None)
    if op_of(node) == "AveragePool":
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)


def _own(node: ir.Node, counts: Counts) -> list[int]:
    """What ``node`` pads already; beside ``auto_pad`` its pads mean nothing."""
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return [0] * counts[:, 2:].size
    return list(node.attributes.get_ints("pads", [0] * counts[:, 2:].size))


def _padded(node: ir.Node, counts: Counts) -> Counts:
    return np.asarray(_own(node, counts) + counts[:, 2:].reshape(-1), np.int64)
