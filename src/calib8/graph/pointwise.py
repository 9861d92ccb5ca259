"""What follows a convolution value by value, so that TensorRT may compute it in the convolution's own kernel."""

import onnx_ir as ir

from calib8.graph.values import op_of

#: Value by value, whatever the layout.
ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt",
    "Sub", "Tanh",
}  # fmt: skip

#: Of codes it makes codes, so that TensorRT moves Q to where they come from.
PASSES_CODES = {"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def pointwise_from(value: ir.Value) -> tuple[list[ir.Value], list[ir.Node]]:
    """``value`` and all that comes of it by way of ops that work value by value and read nothing else but constants.

    And the nodes that compute it. A Cast ends it, and so does the body of an If or a Loop.
    """
    values, nodes = [value], []
    for one in values:
        for reader, _ in one.uses():
            others = [read for read in reader.inputs if read is not None and read not in values]
            taken = works_by_value(reader) and all(map(is_constant, others)) and reader.graph is one.graph
            if taken and reader not in nodes:
                nodes.append(reader)
                values.extend(reader.outputs)
    return values, nodes


def ends_of(values: list[ir.Value], nodes: list[ir.Node]) -> list[tuple[ir.Node | None, ir.Value]]:
    """Who reads ``values`` beside ``nodes``, and what of it, past what TensorRT moves Q across; None is an output."""
    ends: list[tuple[ir.Node | None, ir.Value]] = []
    values = list(values)
    for value in values:
        ends += [(None, value)] if value.is_graph_output() else []
        for reader in [reader for reader, _ in value.uses() if reader not in nodes]:
            if op_of(reader) in PASSES_CODES and reader.inputs[0] is value:
                values.append(reader.outputs[0])
            else:
                ends.append((reader, value))
    return ends


def works_by_value(node: ir.Node) -> bool:
    """Does ``node`` compute each value of its result of the same one of each tensor that it reads?"""
    return op_of(node) in ELEMENTWISE - {"Cast"}


def joined(ends: list[tuple[ir.Node | None, ir.Value]]) -> bool:
    """Do they all work value by value, on another tensor besides? TensorRT makes one kernel of that, by itself."""
    return bool(ends) and all(reader is not None and works_by_value(reader) for reader, _ in ends)


def ends_in_kernel(nodes: list[ir.Node]) -> bool:
    """Can every kernel of a convolution compute ``nodes``, too: bounds, or SiLU, x * sigmoid(x)?"""
    silu = sorted(map(op_of, nodes)) == ["Mul", "Sigmoid"] and not any(is_constant(v) for n in nodes for v in n.inputs)
    return silu or {op_of(node) for node in nodes} <= {"Clip", "Relu"}


def is_grouped(conv: ir.Node) -> bool:
    """Do blocks of channels have kernels of their own, or each, in a depthwise convolution?"""
    return conv.attributes.get_int("group", 1) > 1


def becomes_codes(node: ir.Node | None) -> bool:
    """Is it Q, or a Cast that Q alone reads?"""
    if node is None:
        return False
    readers = [reader for reader, _ in node.outputs[0].uses()]
    cast = op_of(node) == "Cast" and not node.outputs[0].is_graph_output() and bool(readers)
    return op_of(node) == "QuantizeLinear" or (cast and all(op_of(one) == "QuantizeLinear" for one in readers))


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is known."""
    return value is not None and value.const_value is not None
