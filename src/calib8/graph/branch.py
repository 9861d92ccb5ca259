"""What lies between a GEMM and a value, if that is elementwise: column j of the weight alone decides channel j."""

from dataclasses import dataclass

import onnx_ir as ir

#: Operators that compute each number from those at its place.
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Pow", "Relu", "Sigmoid", "Tanh")


@dataclass(frozen=True)
class Branch:
    """A MatMul or Gemm, and ``nodes`` behind it whose values have as many channels as that has columns."""

    gemm: ir.Node
    nodes: tuple[ir.Node, ...]

    def closed(self, exit_: ir.Node) -> bool:
        """Does nothing outside read from it?"""
        inside = {*self.nodes, exit_}
        return all(reader in inside for node in (self.gemm, *self.nodes) for reader, _ in node.outputs[0].uses())


def axis_of_columns(gemm: ir.Node) -> int:
    """The axis of its weight along which the columns of a MatMul or Gemm run."""
    return 0 if gemm.attributes.get_int("transB", 0) else 1


def branch_of(value: ir.Value, channels: int) -> Branch | None:
    """The branch that computes ``value``, whose last axis has ``channels``.

    None if that is not one MatMul or Gemm and elementwise ops with constants of one number, or of one for each channel,
    or if a value of it is an output of the model.
    """
    gemms: list[ir.Node] = []
    nodes: dict[ir.Node, None] = {}

    def grow(part: ir.Value | None) -> bool:
        if part is not None and part.const_value is not None:
            constant = part.const_value
            return constant.size == 1 or (constant.size == channels and constant.shape[-1] == channels)
        node = part.producer() if part is not None else None
        if part is None or node is None or part.is_graph_output():
            return False
        if node in nodes or node in gemms:
            return True
        if node.op_type in ("MatMul", "Gemm") and not gemms:
            gemms.append(node)
            return all(operand is None or grow(operand) for operand in node.inputs[2:])  # a Gemm's bias
        nodes[node] = None
        return node.op_type in ELEMENTWISE and all(grow(operand) for operand in node.inputs)

    return Branch(gemms[0], tuple(nodes)) if grow(value) and gemms else None


def weighted_branch_of(value: ir.Value, channels: int) -> Branch | None:
    """``branch_of``, if the weight of its GEMM is a constant matrix, of which the columns can be chosen."""
    branch = branch_of(value, channels)
    weight = branch.gemm.inputs[1].const_value if branch is not None and branch.gemm.inputs[1] is not None else None
    if branch is None or weight is None or len(weight.shape) != 2:
        return None
    return branch if weight.shape[axis_of_columns(branch.gemm)] == channels else None
