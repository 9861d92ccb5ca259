"""Keep embedding tables in INT8: a quarter of the bytes of FP32, half of FP16.

Rules:
1. A table is a constant [rows, width] that a Gather along axis 0 indexes. Tables under ``MINIMUM_BYTES`` stay.
2. The form is ``DQ(int8 table) -> Gather``. TensorRT refuses ``Gather(int8 table) -> DQ``.
3. One scale per row (axis 0): on MPNet's vocabulary it keeps 41 dB, one scale per column 37 dB.
"""

import onnx_ir as ir

from calib8.graph.values import drop_unread
from calib8.passes.insert_qdq import quantised_constant
from calib8.passes.qdq_nodes import Constants

MINIMUM_BYTES = 1 << 20


def quantize_embeddings(model: ir.Model) -> ir.Model:
    """Quantise every large embedding table of ``model`` in place and return it."""
    graph, constants = model.graph, Constants(model.graph)
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or not _is_table(table):
            continue
        first = graph[0]  # since the body of an If may read the table, too
        dequantised = quantised_constant(constants, table, axis=0, before=first)
        for reader, index in table.uses():
            reader.replace_input_with(index, dequantised)
        drop_unread(graph, table)
    return model


def _is_table(value: ir.Value) -> bool:
    """Rule 1. All readers must be such Gathers."""
    constant = value.const_value
    return (
        value.is_initializer()
        and constant is not None
        and constant.dtype == ir.DataType.FLOAT
        and len(constant.shape) == 2
        and constant.nbytes >= MINIMUM_BYTES
        and all(
            reader.op_type == "Gather" and index == 0 and reader.attributes.get_int("axis", 0) == 0
            for reader, index in value.uses()
        )
    )
