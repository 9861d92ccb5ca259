"""What computes in FP16 or BF16 computes in FP32: such a file is quantised as the original that it was made from.

Tools that halve models (onnxconverter-common, optimum) leave files like that. Every FP16 or BF16 number is one of FP32,
and calib8 makes FP16 itself of what does not become INT8, by rules of its own (``half``).

Rules:
1. Constants are widened: a large weight in a file whenever it is asked for, others now.
2. What names FP16 or BF16 as a type names FP32: a Cast, a constant in an attribute, numbers drawn at random.
3. Inputs and outputs of the model keep their types: a Cast stands behind the one and in front of the other.
4. A model with Q or DQ stays as it is: its codes were made for the types that it has.
"""

import onnx_ir as ir

from calib8.graph.codes import QDQ
from calib8.graph.mapped import SMALLEST, Folded, mapped_weight
from calib8.graph.values import name_of, op_of

FP32 = ir.DataType.FLOAT
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
#: Rule 2: attributes of which the number is a type.
TYPES = ("to", "dtype", "output_datatype", "stash_type")


def widen(model: ir.Model) -> ir.Model:
    """Apply the rules to ``model``, its bodies included, in place, and return it."""
    if any(op_of(node) in QDQ for node in model.graph.all_nodes()):  # rule 4
        return model
    inputs = [value for value in model.graph.inputs if value.dtype in HALVES]
    outputs = [(place, value.dtype) for place, value in enumerate(model.graph.outputs) if value.dtype in HALVES]
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in HALVES:
                value.const_value = _widened(value.const_value, name_of(value))
        for node in graph:
            _retype(node)
        for value in [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]:
            if value.dtype in HALVES and value not in inputs:
                value.type = ir.TensorType(FP32) if isinstance(value.type, ir.TensorType) else None
    for value in inputs:
        _cast_behind(model.graph, value)
    for place, dtype in outputs:
        _cast_before(model.graph, place, dtype)
    return model


def _widened(weight: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Rule 1."""
    cast = ir.node("Cast", [ir.Value()], {"to": int(FP32)}, outputs=[ir.Value(name=name)])
    found = Folded(cast, weight)
    lazy = mapped_weight(found) is not None and found.nbytes >= SMALLEST
    return found if lazy else ir.tensor(found.numpy(), name=name)


def _retype(node: ir.Node) -> None:
    """Rule 2."""
    for attribute in list(node.attributes.values()):
        name = attribute.name
        if attribute.type == ir.AttributeType.INT and name in TYPES and attribute.as_int() in HALVES:
            node.attributes[name] = ir.AttrInt64(name, int(FP32))
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALVES:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor(), name))


def _cast_behind(graph: ir.Graph, value: ir.Value) -> None:
    """Rule 3, of an input that a node reads."""
    readers = list(value.uses())
    if not readers:
        return
    name = f"{value.name}::fp32"
    wide = ir.Value(name=name, type=ir.TensorType(FP32), shape=value.shape)
    for node, place in readers:
        node.replace_input_with(place, wide)
    graph.insert_before(graph[0], ir.node("Cast", [value], {"to": int(FP32)}, outputs=[wide], name=name))


def _cast_before(graph: ir.Graph, place: int, dtype: ir.DataType) -> None:
    """Rule 3, of an output that a node computes."""
    wide = graph.outputs[place]
    producer = wide.producer()
    if producer is None:
        return
    name = name_of(wide)
    wide.name = f"{name}::fp32"
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=wide.shape)
    graph.insert_after(producer, ir.node("Cast", [wide], {"to": int(dtype)}, outputs=[value], name=f"{name}::half"))
    graph.outputs[place] = value
