"""What follows a convolution value by value, so that TensorRT may compute it in the convolution's own kernel."""

from collections.abc import Sequence

import onnx_ir as ir

from calib8.graph.values import op_of

#: Value by value, whatever the layout.
ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt",
    "Sub", "Tanh",
}  # fmt: skip
#: Of constants that no input tells.
PARAMETRIC = {"Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Selu"}


def pointwise_from(value: ir.Value) -> tuple[list[ir.Value], list[ir.Node]]:
    """``value`` and all that comes of it by way of ops that work value by value and read nothing else but constants.

    And the nodes that compute it. A Cast ends it.
    """
    values, nodes = [value], []
    for one in values:
        for reader, _ in one.uses():
            others = [read for read in reader.inputs if read is not None and read not in values]
            taken = works_by_value(reader) and all(map(is_constant, others))
            if taken and reader not in nodes:
                nodes.append(reader)
                values.extend(reader.outputs)
    return values, nodes


def works_by_value(node: ir.Node) -> bool:
    """Does ``node`` compute each value of its result of the same one of each tensor that it reads?"""
    return op_of(node) in ELEMENTWISE - {"Cast"}


def ends_in_kernel(nodes: list[ir.Node]) -> bool:
    """Can every kernel of a convolution compute ``nodes``, too: bounds, or SiLU, x * sigmoid(x)?"""
    silu = sorted(map(op_of, nodes)) == ["Mul", "Sigmoid"] and not any(map(has_constants, nodes))
    return silu or {op_of(node) for node in nodes} <= {"Clip", "Relu"}


def is_depthwise(conv: ir.Node, weight: Sequence[int | ir.SymbolicDim]) -> bool:
    """Has every channel of Conv ``conv`` kernels of its own? ``weight`` is the shape of its weight."""
    return conv.attributes.get_int("group", 1) > 1 and weight[1] == 1


def has_constants(node: ir.Node) -> bool:
    """Does the op of ``node`` compute with constants, those that bound it not counted?"""
    return op_of(node) in PARAMETRIC or (op_of(node) != "Clip" and any(map(is_constant, node.inputs)))


def becomes_codes(node: ir.Node) -> bool:
    """Is it Q, or a Cast that Q alone reads?"""
    readers = [reader for reader, _ in node.outputs[0].uses()]
    cast = op_of(node) == "Cast" and not node.outputs[0].is_graph_output() and bool(readers)
    return op_of(node) == "QuantizeLinear" or (cast and all(op_of(one) == "QuantizeLinear" for one in readers))


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is known."""
    return value is not None and value.const_value is not None
