"""What an ONNX model wants to be fed, read from its graph."""

from collections import Counter

import onnx_ir as ir

from calib8.data.inputs import InputSpec, named_dimensions
from calib8.errors import ModelError

#: Operators that hand indices on unchanged.
PASSING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
#: What exporters call a dimension of which they know nothing.
NAMELESS = ("", "?", "-1", "None", "unknown")


def declared_inputs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs that a caller has to feed, every dynamic dimension named. Raises ``ModelError`` for unknown ranks."""
    specs = []
    for value, shape in input_shapes(model.graph):
        if value.dtype in (None, ir.DataType.UNDEFINED) or shape is None:
            raise ModelError(f"input {value.name!r} of the model has no type or no rank. Export the model again.")
        specs.append(InputSpec(value.name or "", value.dtype.numpy(), shape, _vocabulary(value)))
    return named_dimensions(tuple(specs))


def input_shapes(graph: ir.Graph) -> list[tuple[ir.Value, tuple[int | str | None, ...] | None]]:
    """The inputs that a caller feeds, each with its sizes, and the names of those that are dynamic; None for no name.

    -1 and 0 are sizes of which an exporter knew nothing, and ``NAMELESS`` are names of such. A name that stands for
    several axes of one input alone, as for height and width, says nothing of them either.
    """
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    named = Counter(dim for value in inputs for dim in {str(size) for size in value.shape or ()})

    def told(value: ir.Value, size: int | ir.SymbolicDim) -> int | str | None:
        if isinstance(size, int):
            return size if size > 0 else None
        alone = named[str(size)] == 1 and list(map(str, value.shape or ())).count(str(size)) > 1
        return None if alone or size.value in NAMELESS else size.value

    return [(v, None if v.shape is None else tuple(told(v, size) for size in v.shape)) for v in inputs]


def table_rows(table: ir.Value | None) -> int | None:
    """Rows of a constant table [rows, width], also of one that is stored as int8 or in another float type."""
    while table is not None and (producer := table.producer()) is not None:
        if producer.op_type not in ("DequantizeLinear", "Cast"):
            return None
        table = producer.inputs[0]
    if table is None or table.const_value is None or len(table.const_value.shape) != 2:
        return None
    return int(table.const_value.numpy().shape[0])


def _vocabulary(value: ir.Value) -> int | None:
    """Rows of the smallest constant table that ``value`` indexes as it is (its vocabulary size)."""
    rows = []
    for reader, index in value.uses():
        if reader.op_type == "Gather" and index == 1 and reader.attributes.get_int("axis", 0) == 0:
            rows.append(table_rows(reader.inputs[0]))
        elif reader.op_type in PASSING and index == 0:
            rows.append(_vocabulary(reader.outputs[0]))
    return min((count for count in rows if count is not None), default=None)
