"""Take away the Transposes between convolutions, which models brought over from TensorFlow have around each of them.

    Conv -> Transpose(to the end) -> Relu, Add, … -> Transpose(back) -> Conv   becomes   Conv -> Relu, Add, … -> Conv

TensorRT 10.6 computes them one by one: of a ResNet-50 with 101 of them they took more than half of the time, and a Q
between Transpose and Conv is a kernel of its own.

Rules:
1. A Transpose that puts the channels last of what a convolution or pooling computed, or what came of that value by
   value, is moved behind the ops that read it, as long as these work value by value, or along axes that can be named
   otherwise.
2. Where it meets the one that puts them back, both go. What stays bears the name of what was computed there, in the
   same layout, and knows its own as another one: ranges are found by name.
3. Other readers of a moved Transpose keep it, so there may be more of them in between: only what leaves fewer counts.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes import common

from calib8.graph.pointwise import ELEMENTWISE
from calib8.graph.values import IDENTITIES, dropped_identities, name_of, op_of
from calib8.passes.qdq_nodes import Constants

#: What computes [N, C, …] of [N, C, …].
SPATIAL = {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize"}
REDUCTIONS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}
Perm = tuple[int, ...]


def without_transposes(model: ir.Model) -> ir.Model:
    """A clone of the prepared ``model`` that computes the same with fewer Transposes; ``model`` where there is none."""
    changed = model.clone()
    _Mover(changed.graph).move()
    common.RemoveUnusedNodesPass()(changed)
    return changed if _transposes(changed) < _transposes(model) else model


def _transposes(model: ir.Model) -> int:
    return sum(op_of(node) == "Transpose" for node in model.graph)


class _Mover:
    """Moves the Transposes of one graph down, in the order of the graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.constants = Constants(graph)
        #: What a Transpose that may be moved computes: what it reads, and its order of axes.
        self.moved: dict[ir.Value, tuple[ir.Value, Perm]] = {}
        #: What is [N, C, …]: computed by a convolution, or of that value by value.
        self.spatial: set[ir.Value] = set()
        #: What an op now computes, and the name that it had before a Transpose behind it took that.
        self.called: dict[ir.Value, str] = {}

    def move(self) -> None:
        for node in list(self.graph):
            if op_of(node) == "Transpose":
                self._meet(node)
                continue
            if (perm := self._order_of(node)) is not None:
                self._pass(node, perm)
            if op_of(node) in SPATIAL or (op_of(node) in ELEMENTWISE and not self.spatial.isdisjoint(node.inputs)):
                self.spatial.update(node.outputs)
        self._give_names_back()

    def _give_names_back(self) -> None:
        """Where nobody reads the Transpose behind an op."""
        for turned, (value, _) in self.moved.items():
            if value in self.called and not turned.uses() and not turned.is_graph_output():
                transpose = turned.producer()
                assert transpose is not None
                self.graph.remove(transpose, safe=True)
                value.name = self.called[value]

    def _meet(self, node: ir.Node) -> None:
        """Rule 2, or a Transpose to be moved."""
        read, perm = node.inputs[0], tuple(node.attributes.get_ints("perm", ()))
        if read is None or not perm:
            return
        if read in self.moved:
            source, there = self.moved[read]
            if tuple(there[axis] for axis in perm) == tuple(range(len(perm))) and not source.is_graph_output():
                self._stand_in(source, node.outputs[0])
        elif perm == (0, *range(2, len(perm)), 1) and read in self.spatial:
            self.moved[node.outputs[0]] = read, perm

    def _stand_in(self, source: ir.Value, value: ir.Value) -> None:
        """``source`` has the numbers of ``value``, in its layout."""
        name, before = name_of(value), self.called.pop(source, name_of(source))
        convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
        producer = value.producer()
        assert producer is not None
        self.graph.remove(producer, safe=True)
        source.name = name
        source.meta[IDENTITIES] = [*dropped_identities(source), *dropped_identities(value), before]
        if value.shape is not None:
            source.shape = value.shape

    def _order_of(self, node: ir.Node) -> Perm | None:
        """The order of axes that all operands of ``node`` come in; None where they differ, or it cannot be passed."""
        kind, operands = op_of(node), [value for value in node.inputs if value is not None]
        perms = {self.moved[value][1] for value in operands if value in self.moved}
        others = [value for value in operands if value not in self.moved]
        if len(perms) != 1 or len(node.outputs) != 1 or any(value.const_value is None for value in others):
            return None
        (perm,) = perms
        if kind in ELEMENTWISE or (kind == "Concat" and not others):
            fits = all(len(value.const_value.shape) <= len(perm) for value in others if value.const_value is not None)
            return perm if fits else None
        movable = not _pads_some(node) if kind == "Pad" else kind in REDUCTIONS and _axes(node, len(perm)) is not None
        return perm if movable and node.inputs[0] in self.moved else None

    def _pass(self, node: ir.Node, perm: Perm) -> None:
        """Rule 1: let ``node`` read what the Transposes in front of it read, and put one behind it."""
        kind, back = op_of(node), _inverse(perm)
        for index, value in enumerate(node.inputs):
            if value in self.moved:
                node.replace_input_with(index, self.moved[value][0])
                continue
            constant = value.const_value if value is not None and kind in ELEMENTWISE else None
            if value is not None and constant is not None and constant.size > 1:
                array = constant.numpy()
                array = array.reshape([1] * (len(perm) - array.ndim) + list(array.shape)).transpose(back)
                node.replace_input_with(index, self.constants.new(f"{value.name}_channels_first", array))
        if kind == "Concat":
            node.attributes["axis"] = ir.AttrInt64("axis", perm[node.attributes.get_int("axis", 0) % len(perm)])
        elif kind == "Pad":
            self._order_pads(node, back)
        elif kind in REDUCTIONS and not self._reduce(node, perm):
            return
        self._transpose_behind(node, perm, back)

    def _order_pads(self, node: ir.Node, back: Perm) -> None:
        pads = node.inputs[1]
        assert pads is not None
        assert pads.const_value is not None
        begins_and_ends = pads.const_value.numpy().reshape(2, -1)[:, list(back)]
        node.replace_input_with(1, self.constants.new(f"{pads.name}_channels_first", begins_and_ends.reshape(-1)))

    def _reduce(self, node: ir.Node, perm: Perm) -> bool:
        """Name the axes otherwise. Whether what is left still has to be brought in order."""
        axes = _axes(node, len(perm))
        assert axes is not None
        there = np.array([perm[axis] for axis in axes], np.int64)
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            node.replace_input_with(1, self.constants.new(f"{node.inputs[1].name}_channels_first", there))
        else:
            node.attributes["axes"] = ir.AttrInt64s("axes", there.tolist())
        return node.attributes.get_int("keepdims", 1) == 1

    def _transpose_behind(self, node: ir.Node, perm: Perm, back: Perm) -> None:
        value = node.outputs[0]
        turned = ir.Value(name=value.name, type=value.type, shape=value.shape)
        self.called[value] = name_of(value)
        convenience.replace_all_uses_with(value, turned, replace_graph_outputs=True)
        value.name = self.constants.free(f"{turned.name}_channels_first")
        value.shape = None if turned.shape is None else ir.Shape([turned.shape[axis] for axis in back])
        transpose = ir.node("Transpose", [value], {"perm": perm}, outputs=[turned], name=f"{value.name}_Transpose")
        self.graph.insert_after(node, transpose)
        self.moved[turned] = value, perm


def _inverse(perm: Perm) -> Perm:
    return tuple(int(axis) for axis in np.argsort(perm))


def _pads_some(node: ir.Node) -> bool:
    """Whether ``node`` names the axes that it pads (from opset 18 on), with or without a value to pad with."""
    return len(node.inputs) > 3 and node.inputs[3] is not None


def _axes(node: ir.Node, rank: int) -> Sequence[int] | None:
    """The axes over which ``node`` reduces; None where, without them, the others come in another order."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = list(node.attributes.get_ints("axes", ()))
    if given is not None and given.const_value is not None:
        axes = given.const_value.numpy().tolist()
    keeps = node.attributes.get_int("keepdims", 1) == 1
    axes = [axis % rank for axis in axes]
    return axes if axes and (keeps or set(axes) >= set(range(1, rank - 1))) else None
