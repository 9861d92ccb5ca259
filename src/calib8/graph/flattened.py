"""Which tensor the rows of a flat one come from: its shape tells in which order they lie."""

import onnx_ir as ir

#: What makes a row of its first computed input into the row of that number.
ARITHMETIC = ("Add", "Cast", "Div", "Erf", "Exp", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Sqrt", "Sub", "Where")
ACTIVATIONS = ("BiasGelu", "Clip", "Elu", "FastGelu", "Gelu", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
LAYERS = ("Dropout", "Gemm", "LayerNormalization", "MatMul", "RMSNormalization", "Softmax")
ROW_BY_ROW = frozenset((*ARITHMETIC, *ACTIVATIONS, *LAYERS))
#: What gives the same values other axes.
SHAPING = ("Flatten", "Reshape")


def unflattened(value: ir.Value) -> ir.Value | None:
    """The tensor of more axes whose leading ones were made into the rows of ``value`` [rows, ...].

    None if ``value`` has more than two axes, so that they are its own, or if something on the way may move rows.
    """
    if value.shape is not None and len(value.shape) != 2:
        return None
    at: ir.Value | None = value
    while at is not None and (node := at.producer()) is not None:
        read = _read_for_rows(node)
        if node.op_type in SHAPING and read is not None and not _as_flat(read, at):
            return read
        at = read
    return None


def _read_for_rows(node: ir.Node) -> ir.Value | None:
    """The input whose rows become those of the output of ``node``, in the same order; None if there is none."""
    if node.op_type in SHAPING:
        return node.inputs[0]
    table = node.inputs[0] if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0 else None
    if table is not None and table.const_value is not None:
        return node.inputs[1]
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int() == 1
    if node.op_type not in ROW_BY_ROW or transposed:
        return None
    axes = len(node.outputs[0].shape or ())
    computed = (value for value in node.inputs if value is not None and value.const_value is None)
    return next((value for value in computed if value.shape is None or len(value.shape) >= axes), None)


def _as_flat(one: ir.Value, other: ir.Value) -> bool:
    """Whether ``one`` has at most as many axes as ``other``."""
    return one.shape is not None and other.shape is not None and len(one.shape) <= len(other.shape)
