"""Stairs: channels behind a GELU that reach farther than the INT8 grid, computed by several columns of the GEMM before.

    z -> GELU -> y        becomes        z -> Gather(index) -> Sub(offset) -> GELU -> Q

with the channels of ``z`` repeated as ``index`` says, each copy an ``offset`` lower (``condition``, rule 9); and then,
of the first of these the second,

    x -> MatMul(W) -> Add(b) -> Gather -> Sub -> GELU
    x -> MatMul(W[:, index]) -> Add(b[index] - offset) -> GELU

so that nothing stands between the GEMM, GELU and Q, which TensorRT computes in one kernel. A Gemm has them in its C.
Exact, but for the order of the two sums.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.branch import weighted_branch_of
from calib8.graph.values import drop_unread, insert_behind, op_of
from calib8.passes.early_gather import into_gemm
from calib8.passes.half import CONDITIONING
from calib8.passes.qdq_nodes import Constants

#: Mark (``Node.meta``) of the Gather and the Sub.
STAIRS = "calib8.stairs"


def takes_stairs(value: ir.Value, channels: int, readers: Collection[ir.Node]) -> bool:
    """Whether ``value`` is the GELU of what one GEMM with a constant weight and elementwise ops compute, of so many
    channels.

    Only the ``readers``, all of which are to be quantised, may read it, and nothing else what lies between: all of it
    gets other channels.
    """
    node = value.producer()
    if node is None or op_of(node) != "Gelu" or node.inputs[0] is None or value.is_graph_output():
        return False
    branch = weighted_branch_of(node.inputs[0], channels)
    alone = all(reader in readers for reader, _ in value.uses())
    return branch is not None and branch.closed(node) and alone


def stairs(constants: Constants, value: ir.Value, index: NDArray[np.int64], offset: NDArray[np.float32]) -> ir.Value:
    """``value``, a GELU, of repeated channels: ``GELU(z[..., index] - offset)``. ``value`` stays for others."""
    gelu = value.producer()
    assert gelu is not None
    (before,) = gelu.inputs
    assert before is not None
    shape = None if value.shape is None else ir.Shape([*value.shape[:-1], len(index)])
    nodes: list[ir.Node] = []

    def append(op_type: str, name: str, inputs: list[ir.Value], attributes: dict[str, ir.Attr | int]) -> ir.Value:
        output = ir.Value(name=constants.free(f"{value.name}_{name}"), type=value.type, shape=shape)
        nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=f"{output.name}_{op_type}"))
        return output

    chosen = constants.new(f"{value.name}_stairs", index)
    repeated = append("Gather", "repeated", [before, chosen], {"axis": -1})
    lowered = append("Sub", "lowered", [repeated, constants.new(f"{value.name}_offset", offset)], {})
    for node in nodes:
        node.meta[STAIRS] = node.meta[CONDITIONING] = True
    result = append("Gelu", "on_stairs", [lowered], dict(gelu.attributes))
    insert_behind(constants.graph, before, nodes)
    return result


def fold_stairs(model: ir.Model) -> int:
    """Let the GEMM before compute what stairs repeat and lower, in place. How many tensors of them are all folded."""
    graph, folded = model.graph, 0
    for gather in [node for node in graph if STAIRS in node.meta and op_of(node) == "Gather"]:
        ((lower, _),) = gather.outputs[0].uses()
        chosen = gather.inputs[1].const_value if gather.inputs[1] is not None else None
        assert chosen is not None
        if into_gemm(graph, gather, chosen.numpy(), always=True):
            folded += _into_bias(graph, lower)
    return folded


def _into_bias(graph: ir.Graph, lower: ir.Node) -> bool:
    """Lower the constant bias that is added right before. False if there is none, or others read the sum."""
    total, offset = lower.inputs
    node = total.producer() if total is not None else None
    if node is None or len(node.outputs[0].uses()) != 1 or offset is None or offset.const_value is None:
        return False
    if (slot := _bias_slot(node)) is None:
        return False
    bias = node.inputs[slot]
    assert bias is not None
    assert bias.const_value is not None
    lowered = (bias.const_value.numpy() - offset.const_value.numpy()).astype(np.float32)
    node.replace_input_with(slot, Constants(graph).new(f"{bias.name}_lowered", lowered))
    lower.outputs[0].replace_all_uses_with(node.outputs[0])
    graph.remove(lower, safe=True)
    for value in (bias, offset):
        if value.is_initializer():
            drop_unread(graph, value)
    return True


def _bias_slot(node: ir.Node) -> int | None:
    """The input that is a constant added to the rest: either of an Add, the C of a Gemm."""
    slots = {"Add": (0, 1), "Gemm": (2,) if node.attributes.get_float("beta", 1.0) == 1 else ()}.get(op_of(node), ())
    given = [(slot, node.inputs[slot]) for slot in slots if slot < len(node.inputs)]
    return next((slot for slot, value in given if value is not None and value.const_value is not None), None)
