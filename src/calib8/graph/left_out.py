"""Ops that multiply with a constant and that nothing here brings into 8 bits, each with the reason: they are told."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from calib8.errors import ModelError
from calib8.graph.values import op_of
from calib8.graph.weighted import require_original, require_single, weighted_ops

#: Float operators whose weight is one of these inputs.
READ = {
    **dict.fromkeys(("MatMul", "Gemm", "Einsum"), (0, 1)),
    **dict.fromkeys(("Conv", "ConvTranspose"), (1,)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), (1, 2)),
}
#: Operators whose weights are codes, or become codes as they run.
QUANTISED = (
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "MatMulNBits"),
    *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "QGemm", "MatMulIntegerToFloat"),
)
#: Why operators stay as they are.
WHY = {
    **dict.fromkeys(("GRU", "LSTM", "RNN"), "a recurrent layer has no INT8 form in ONNX or TensorRT"),
    "ConvTranspose": "TensorRT-RTX plans it in float whatever its scales are, and ONNX Runtime has no INT8 form of it",
    "Einsum": "calib8 has no INT8 form of it",
}
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class LeftOut:
    """The op ``name``, of this ``kind``, that reads the tensor ``input``; why it stays as it is."""

    name: str
    kind: str
    input: str
    reason: str


def left_out(model: ir.Model) -> list[LeftOut]:
    """All such ops of the prepared ``model``, those in bodies of If, Loop and Scan included, in graph order."""
    known = {op.node for op in weighted_ops(model)}
    return list(_of_graph(model.graph, known, ""))


def why_nothing(model: ir.Model) -> str:
    """What there is instead of weighted ops, for people: ops by reason and kind; nothing if there are none."""
    alike: dict[str, list[LeftOut]] = {}
    for op in left_out(model):
        alike.setdefault(op.reason, []).append(op)
    return "; ".join(
        f"{' and '.join(f'{count} {kind}' for kind, count in Counter(op.kind for op in ops).items())}, as "
        f"{ops[0].name!r}: {reason}"
        for reason, ops in alike.items()
    )


def require_weighted_ops(model: ir.Model) -> None:
    """Raise ``ModelError`` if ``model`` has nothing to quantise, is not in FP32, or was quantised by calib8."""
    require_original(model)
    require_single(model)
    if not weighted_ops(model):
        found = why_nothing(model)
        raise ModelError(
            "the model has no MatMul, Gemm or Conv with a constant float weight: there is nothing to quantise. "
            + (f"It has {found}." if found else "If it is quantised already, give its FP32 original.")
        )


def _of_graph(graph: ir.Graph, known: set[ir.Node], body: str) -> Iterator[LeftOut]:
    for number, node in enumerate(graph):
        name = node.name or f"{node.op_type}_{number}"
        if node not in known and (reason := _reason(node)):
            read = next((value.name for value in node.inputs if value is not None and value.const_value is None), "")
            yield LeftOut(name, node.op_type, read or "", body or reason)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                inside = (
                    f"it is in a body of the {node.op_type} {name!r}, which is computed in float (exported as a "
                    "model of its own, that body can be quantised)"
                )
                yield from _of_graph(attribute.as_graph(), known, inside)


def _reason(node: ir.Node) -> str | None:
    """Why an op that is no weighted op is none; None if it has no weight."""
    kind = op_of(node)
    if node.op_type in QUANTISED:
        return "it is quantised already, in a form that TensorRT does not take: give the float original"
    slots = READ.get(kind, ()) if kind else range(len(node.inputs))
    weights = [slot for slot in slots if _weight(node, slot) is not None]
    computed = any(value is not None and value.const_value is None for value in node.inputs[:2])
    in_attributes = not kind and any(map(_holds_floats, node.attributes.values()))
    if not computed or not (weights or in_attributes):
        return None
    if not kind:
        return f"an operator of {node.domain}, which is not one of ONNX's own"
    if kind in WHY:
        return WHY[kind]
    if weights == [0]:
        return "its constant is on the left, in a product that cannot be turned around"
    return "its weight has axes along which TensorRT takes no scale per output channel"


def _holds_floats(attribute: ir.Attr) -> bool:
    tensor = attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
    return attribute.type == ir.AttributeType.FLOATS or (tensor and attribute.as_tensor().dtype in FLOATS)


def _weight(node: ir.Node, slot: int) -> ir.Value | None:
    """The constant of two axes or more at this input, a Constant node's output included; None if there is none."""
    value = node.inputs[slot] if slot < len(node.inputs) else None
    if value is None:
        return None
    constant, producer = value.const_value, value.producer()
    if constant is None and producer is not None and op_of(producer) == "Constant" and "value" in producer.attributes:
        constant = producer.attributes["value"].as_tensor()
    matrix = constant is not None and constant.dtype in FLOATS and len(constant.shape) > 1
    return value if matrix else None
