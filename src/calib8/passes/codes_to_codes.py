"""An INT8 convolution computes in FP32 where all that comes of it is codes again, by way of an activation.

    DQ -> Cast -> Conv -> Add 3, Clip, Mul, … (FP16) -> Cast -> Q     becomes     DQ -> Conv -> Add, … (FP32) -> Q

TensorRT makes one kernel of all that stands between DQ and Q, with codes on both sides. TensorRT 10.6 fails at it where
constants in it are FP16 ("weightsPtr.h … Assertion type() == expectedDataType<T>() failed"): so did a detector with
h-swish written out, and so do HardSwish and Gelu, whose constants TensorRT makes itself. The kernel computes in FP32
either way, and nothing of it is stored but codes.

Rules:
1. Input and weight of the convolution come from DQ, its bias is a constant, and it and what follows are read on the way
   to Q only.
2. On that way stands what works value by value, on that value and on constants, and more than ``graph.pointwise`` lets
   end any kernel.
3. For TensorRT alone, at the moment of a build: TensorRT-RTX takes the FP16 form.
"""

import numpy as np
import onnx_ir as ir

from calib8.graph.pointwise import becomes_codes, ends_in_kernel, pointwise_from
from calib8.graph.values import drop_unread, drop_unread_node, name_of, op_of
from calib8.passes.qdq_nodes import Constants

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT


def codes_to_codes(model: ir.Model) -> bool:
    """Rewrite every such convolution of ``model`` in place, and tell whether there are any."""
    constants, found = Constants(model.graph), False
    for node in list(model.graph):
        fixed = all(value is None or value.const_value is not None for value in node.inputs[2:])
        way = _way_to_codes(node) if is_int8_conv(node) and fixed else []
        if way:
            found = True
            _read_codes(model.graph, node)
            for one in [node, *way]:
                compute_in_float(constants, one)
    return found


def is_int8_conv(node: ir.Node) -> bool:
    """Is it a Conv whose input and weight come from DQ, cast to FP16?"""
    return op_of(node) == "Conv" and all(map(_cast_of_codes, node.inputs[:2]))


def _cast_of_codes(value: ir.Value | None) -> bool:
    cast = value.producer() if value is not None else None
    read = cast.inputs[0].producer() if cast is not None and op_of(cast) == "Cast" and cast.inputs[0] else None
    return read is not None and op_of(read) == "DequantizeLinear" and read.outputs[0].dtype == FP32


def _way_to_codes(conv: ir.Node) -> list[ir.Node]:
    """All that reads ``conv``, directly or not, up to the Casts before Q; [] where rule 1 or 2 forbids it."""
    values, way = pointwise_from(conv.outputs[0])
    stored = any(value.is_graph_output() or value.dtype != FP16 or not value.uses() for value in values)
    readers = [reader for value in values for reader, _ in value.uses()]
    to_codes = not stored and all(reader in way or becomes_codes(reader) for reader in readers)
    return way if to_codes and not ends_in_kernel(way) else []


def compute_in_float(constants: Constants, node: ir.Node) -> None:
    """Let ``node`` compute its one result in FP32, of its constants in FP32; who cast that to FP32 reads it at once."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == FP16 and value.const_value is not None:
            wide = value.const_value.numpy().astype(np.float32)
            node.replace_input_with(index, constants.new(f"{name_of(value)}_as_float", wide))
            drop_unread(constants.graph, value)
    result = node.outputs[0]
    result.type = ir.TensorType(FP32)
    for reader in [reader for reader, _ in result.uses() if is_cast_to_float(reader)]:
        reader.outputs[0].replace_all_uses_with(result)
        constants.graph.remove(reader, safe=True)


def is_cast_to_float(node: ir.Node) -> bool:
    """Is it a Cast to FP32 that can go? An output of the model keeps its name."""
    to_float = op_of(node) == "Cast" and node.attributes.get_int("to") == FP32
    return to_float and not node.outputs[0].is_graph_output()


def _read_codes(graph: ir.Graph, conv: ir.Node) -> None:
    """Input and weight as DQ gives them."""
    for index, value in enumerate(conv.inputs[:2]):
        cast = value.producer() if value is not None else None
        assert cast is not None
        conv.replace_input_with(index, cast.inputs[0])
        drop_unread_node(graph, cast.outputs[0])
