"""FP16 for everything that is not INT8: TensorRT 11 and TensorRT-RTX are strongly typed, so precision is in the graph.

BF16 takes its place where it is asked for: the same nodes by the same rules, so that nothing but the type differs.

Rules:
1. A node computes in FP16 unless a rule below keeps it in FP32; a Cast stands on every edge where the two meet.
2. QuantizeLinear, DequantizeLinear, their scales, and what conditions an activation before Q stay FP32. With FP16
   per-channel scales the plan stores the unscaled INT32 accumulator as Half, which overflows on real models.
3. What turns floats into integers or booleans (position buckets, masks), and arithmetic that only feeds that, stays
   FP32: it must round as trained. So do Sin, Cos and what only feeds them (rotary positions): the angle 300.3 in FP16
   is 300.25. So do running sums, which FP16 counts to 2,048 only, and all of which sizes are computed, such as a
   length of speech from durations: of another length, nothing could be compared.
4. An operator or input that ONNX does not define for FP16 (Range, the scales of Resize, other domains), or that fixes
   its own output type (EyeLike), stays FP32. A node whose output type is unknown is refused.
5. Stand-ins for infinity (attention masks) become +-32752: half the FP16 range, so that adding a score cannot
   overflow. They are |x| >= 1e9, and on the way to a Softmax everything beyond 65,504. Bounds (Clip, Min, Max) beyond
   65,504 become +-65,504. A node with any other constant that FP16 cannot hold stays FP32.
6. Inputs and outputs of the model keep their types.
7. Normalisation stays FP32: the square of 256 is already beyond FP16. TensorRT's kernels compute it in FP32 anyway.
8. What reads a square, a norm or the result of a constant that FP16 cannot hold stays FP32 as well, up to where other
   data joins: in ``x / max(norm, 1e-12)`` the quotient, too. MatMul, Gemm and Conv never do.
9. If, Loop and Scan stay FP32, their bodies and what these read included.
10. What reads or makes a tensor that FP16 did not hold in calibration (see ``reach``) stays FP32, whatever it is.
11. A recurrent layer that is told the lengths of its sequences stays FP32: TensorRT-RTX 1.7 chooses between FP16 states
   and FP32 zeros behind their end, and refuses its own choice.
"""

import numpy as np
import onnx_ir as ir

from calib8.graph.values import drop_unread, inner_nodes, insert_behind, name_of
from calib8.passes.half_rules import CONDITIONING, FP16, FP32, HALVES, SHAPE_READERS, HalfRules, StandIn
from calib8.passes.qdq_nodes import Constants

__all__ = ["CONDITIONING", "to_half"]


def to_half(model: ir.Model, half: ir.DataType = FP16) -> ir.Model:
    """Convert ``model`` (types inferred, see ``prepare``) in place and return it. Integers and INT8 are untouched.

    ``half`` is ``FLOAT16`` or ``BFLOAT16``. TensorRT takes BF16 wherever it takes FP16, ONNX in newer opsets only: what
    becomes of BF16 is for TensorRT, and not what ONNX's checker passes.

    Raises ``ModelError`` for nodes of unknown type.
    """
    _Conversion(model.graph, HalfRules(model.graph, model.opset_imports.get("", 0), half)).run()
    return model


class _Conversion:
    """The rewrite of one graph. Casts and half twins of initializers are made once and shared."""

    def __init__(self, graph: ir.Graph, rules: HalfRules) -> None:
        self.graph, self.rules, self.constants = graph, rules, Constants(graph)
        values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        self.floats = {value for value in values if value.dtype == FP32}
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.twins: dict[tuple[ir.Value, StandIn], ir.Value] = {}

    def run(self) -> None:
        for node in list(self.graph):
            for index, value in enumerate(node.inputs):
                if value in self.floats and node.op_type not in SHAPE_READERS:
                    node.replace_input_with(index, self._source(node, index, value))
            if self.rules.is_half(node):
                self._retype(node)
            for inside in inner_nodes(node):  # rule 9
                for index, value in enumerate(inside.inputs):
                    if value in self.floats and value.dtype != FP32:
                        inside.replace_input_with(index, self._cast(value, FP32))
        self._restore_outputs()
        for value in list(self.graph.initializers.values()):
            drop_unread(self.graph, value)

    def _source(self, node: ir.Node, index: int, value: ir.Value) -> ir.Value:
        """``value`` in the type that ``node`` takes (rule 1)."""
        wanted = self.rules.wanted(node, index)
        if value.dtype == wanted:
            return value
        if value.is_initializer() and value.const_value is not None:
            stand_in = self.rules.stand_in(node)
            key = (value, stand_in)
            if key not in self.twins:
                half = stand_in.rounded(value.const_value.numpy(), self.rules.half)
                self.twins[key] = self.constants.new(f"{value.name}_{HALVES[self.rules.half]}", half)
            return self.twins[key]
        return self._cast(value, wanted)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if (value, dtype) not in self.casts:
            name = self.constants.free(f"{value.name}_to_{dtype.name.lower()}")
            output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
            node = ir.node("Cast", [value], {"to": int(dtype)}, outputs=[output], name=f"{name}_Cast")
            insert_behind(self.graph, value, node)
            self.casts[value, dtype] = output
        return self.casts[value, dtype]

    def _retype(self, node: ir.Node) -> None:
        """Mark a node's float outputs as half, and its ``to``/``value`` attribute where that decides the type."""
        for value in self.floats.intersection(node.outputs):
            value.type = ir.TensorType(self.rules.half)
        if node.op_type == "Cast" and node.attributes.get_int("to") == FP32:
            node.attributes["to"] = ir.AttrInt64("to", int(self.rules.half))
        if node.op_type == "ConstantOfShape" and node.outputs[0].dtype == self.rules.half:
            fill = node.attributes.get_tensor("value")
            array = np.zeros(1, np.float32) if fill is None else fill.numpy()
            half = self.rules.stand_in(node).rounded(array, self.rules.half)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(half))

    def _restore_outputs(self) -> None:
        """Rule 6: a float output is computed as half under another name and cast to FP32 under its own."""
        for index, value in enumerate(self.graph.outputs):
            producer = value.producer()
            if producer is None or value not in self.floats or value.dtype == FP32:
                continue
            name = name_of(value)
            value.name = self.constants.free(f"{name}_half")
            output = ir.Value(name=name, type=ir.TensorType(FP32), shape=value.shape)
            cast = ir.node("Cast", [value], {"to": int(FP32)}, outputs=[output], name=f"{name}_Cast")
            self.graph.insert_after(producer, cast)
            self.graph.outputs[index] = output
