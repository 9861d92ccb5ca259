"""FP32 that Q reads beside others is stored as FP16, so that TensorRT does not store it as it is.

    norm (FP32) -> Q                                becomes    norm (FP32) -> Cast to FP16 -> Cast to FP32 -> Q
              \\-> Mul -> Cast to FP16 -> Add                                           \\-> Cast to FP32 -> Mul -> …

The norm of a transformer's layer is computed in FP32 (``half``, rule 7), and both Q and the residual read it. From the
left form TensorRT 10.6 makes a kernel that writes INT8 and FP32, which the next norm reads again. From the right one it
writes INT8 and FP16, half of that, as the norms of a float engine do. Q's step is far above what FP16 rounds off.

Rules:
1. Only in a model that computes in FP16: one that casts something to it.
2. Only what a node computes in FP32 and Q and something else read, and that is no output of the model.
3. Only where FP16 holds ``ROOM`` times what Q's grid covers: some FP32 is FP32 since FP16 does not hold it.
"""

import onnx_ir as ir

from calib8.graph.values import insert_behind, op_of
from calib8.numerics import LEVELS
from calib8.passes.half_rules import FP16, FP32, LARGEST
from calib8.passes.qdq_nodes import Constants

#: A grid may clip, and data of another day reach farther.
ROOM = 16


def half_before_q(model: ir.Model) -> bool:
    """Rewrite every such value of ``model`` in place, and tell whether there are any."""
    graph, constants = model.graph, Constants(model.graph)
    if not any(_to_half(node) for node in graph):
        return False
    found = {value for node in graph if (value := _quantised(node)) is not None and _has_others(value)}
    for value in sorted(found, key=lambda value: value.name or ""):
        uses = list(value.uses())
        half = _cast(constants, value, FP16)
        back = _cast(constants, half, FP32)
        for reader, index in uses:
            if _to_half(reader):
                reader.outputs[0].replace_all_uses_with(half, replace_graph_outputs=True)
                graph.remove(reader, safe=True)
            else:
                reader.replace_input_with(index, back)
    return bool(found)


def _quantised(node: ir.Node) -> ir.Value | None:
    """The FP32 that ``node`` quantises, if a node computes it and FP16 holds it (rule 3)."""
    value = node.inputs[0] if op_of(node) == "QuantizeLinear" else None
    scale = node.inputs[1].const_value if value is not None and node.inputs[1] is not None else None
    producer = value.producer() if value is not None else None
    if value is None or scale is None or producer is None or op_of(producer) == "Cast" or value.dtype != FP32:
        return None
    return value if LEVELS * float(scale.numpy().max()) * ROOM < LARGEST else None


def _has_others(value: ir.Value) -> bool:
    others = any(op_of(reader) not in ("QuantizeLinear", "Shape") for reader, _ in value.uses())
    return others and not value.is_graph_output()


def _to_half(node: ir.Node) -> bool:
    return op_of(node) == "Cast" and node.attributes.get_int("to") == FP16


def _cast(constants: Constants, value: ir.Value, to: ir.DataType) -> ir.Value:
    name = constants.free(f"{value.name}_as_{to.name.lower()}")
    output = ir.Value(name=name, type=ir.TensorType(to), shape=value.shape)
    node = ir.node("Cast", [value], {"to": int(to)}, outputs=[output], name=f"{name}_Cast")
    insert_behind(constants.graph, value, node)
    return output
