"""FP16 for everything that is not INT8: TensorRT 11 and TensorRT-RTX are strongly typed, so precision is in the graph.

Rules:
1. A node computes in FP16 unless a rule below keeps it in FP32; a Cast stands on every edge where the two meet.
2. QuantizeLinear, DequantizeLinear, their scales, and what conditions an activation before Q stay FP32. With FP16
   per-channel scales the plan stores the unscaled INT32 accumulator as Half, which overflows on real models.
3. Arithmetic that only feeds integers or booleans (position buckets, masks) stays FP32: it must round as trained. So
   do Sin, Cos and what only feeds them (rotary positions): the angle 300.3 in FP16 is 300.25.
4. An operator or input that ONNX does not define for FP16 (Range, the scales of Resize) stays FP32.
5. Stand-ins for infinity (|x| >= 1e9, attention masks) become +-32752: half the FP16 range, so that adding a score
   cannot overflow. A node with any other constant that FP16 cannot hold stays FP32.
6. Inputs and outputs of the model keep their types.
7. Normalisation stays FP32: the square of 256 is already beyond FP16. TensorRT's kernels compute it in FP32 anyway.
"""

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.errors import ModelError

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
LARGEST = 65504.0
SMALLEST = 2.0**-24
INFINITY_STAND_IN = 1e9
MASKED = 32752.0
QDQ = ("QuantizeLinear", "DequantizeLinear")
ANGLES = ("Sin", "Cos")
#: Mark (``Node.meta``) of nodes that condition an activation before Q: they must round as they were designed.
CONDITIONING = "calib8.conditioning"
#: Operators of normalisation, whole or decomposed into squares, means and roots.
NORMALISING = ("LayerNormalization", "InstanceNormalization", "Pow", "ReduceMean", "Sqrt", "Reciprocal")
#: Readers that look at a tensor's shape, not at its numbers.
SHAPE_READERS = ("Shape", "Size")


def to_half(model: ir.Model) -> ir.Model:
    """Convert ``model`` (types inferred, see ``prepare``) in place and return it. Integers and INT8 are untouched."""
    graph = model.graph
    _refuse_control_flow(graph)
    opset = model.opset_imports.get("", 0)
    kept = _fp32_nodes(graph, opset)
    halved: dict[str, ir.Value] = {}
    casts: dict[tuple[str, ir.DataType], ir.Value] = {}
    original = {_key(v): v.dtype for node in graph for v in node.outputs}
    original |= {_key(v): v.dtype for v in [*graph.inputs, *graph.initializers.values()]}
    for node in list(graph):
        half = node not in kept
        for index, value in enumerate(node.inputs):
            if value is None or original.get(_key(value)) != FP32:
                continue
            wanted = FP16 if half and not _fp32_input(node, index, opset) else FP32
            if value.const_value is not None and value.is_initializer():
                source = value if wanted == FP32 else _half_initializer(graph, value, halved)
            else:
                source = value if value.dtype == wanted else _cast(graph, value, wanted, casts)
            if source is not value:
                node.replace_input_with(index, source)
        if half:
            _retype(node, original)
    _restore_outputs(graph, original)
    for value in [v for v in graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
        del graph.initializers[_key(value)]
    return model


def _refuse_control_flow(graph: ir.Graph) -> None:
    for node in graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise ModelError(
                f"node {node.name!r} ({node.op_type}) carries a subgraph, and its precision cannot be changed from "
                "outside. Simplify the model so that it has no control flow, or keep FP32 with --remainder fp32."
            )


def _fp32_nodes(graph: ir.Graph, opset: int) -> set[ir.Node]:
    kept = {n for n in graph if n.op_type in (*QDQ, *ANGLES) or not _allows_half(n, opset) or _holds_unrepresentable(n)}
    kept |= {node for node in graph if node.meta.get(CONDITIONING)}
    return kept | _index_only_nodes(graph) | _normalising_nodes(graph)


def _index_only_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Rule 3: nodes whose floats reach nothing but integers, booleans and angles."""
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):  # readers before producers
        floats = [value for value in node.outputs if value.dtype == FP32]
        readers = [reader for value in floats for reader, _ in value.uses() if reader.op_type not in SHAPE_READERS]
        if any(value.is_graph_output() for value in floats) or not readers:
            continue
        if all(_is_integer_sink(reader) or reader.op_type in ANGLES or reader in found for reader in readers):
            found.add(node)
    return found


def _normalising_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Rule 7: normalisation, as one operator or as arithmetic."""
    found = {node for node in graph if node.op_type in NORMALISING}
    for node in graph:
        square = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
        readers = [reader for value in node.outputs for reader, _ in value.uses()]
        producers = [value.producer() for value in node.inputs if value is not None]
        after_mean = any(producer is not None and producer.op_type == "ReduceMean" for producer in producers)
        epsilon = node.op_type == "Add" and after_mean and all(reader in found for reader in readers)
        if square or epsilon:
            found.add(node)
    return found


def _is_integer_sink(node: ir.Node) -> bool:
    return node.op_type not in QDQ and all(v.dtype not in (FP32, FP16) for v in node.outputs)


def _allows_half(node: ir.Node, opset: int) -> bool:
    """Rule 4: does ONNX define the node's type variable for float16?"""
    schema = _schema(node, opset)
    if schema is None:
        return True
    variables = {parameter.type_str for parameter in [*schema.inputs, *schema.outputs]}
    return all(
        "tensor(float16)" in constraint.allowed_type_strs
        for constraint in schema.type_constraints
        if constraint.type_param_str in variables and "tensor(float)" in constraint.allowed_type_strs
    )


def _fp32_input(node: ir.Node, index: int, opset: int) -> bool:
    schema = _schema(node, opset)
    return schema is not None and index < len(schema.inputs) and schema.inputs[index].type_str == "tensor(float)"


def _schema(node: ir.Node, opset: int) -> "onnx.defs.OpSchema | None":
    if node.domain not in ("", "ai.onnx"):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None


def _holds_unrepresentable(node: ir.Node) -> bool:
    """Rule 5: a constant that FP16 would turn into infinity or zero, other than a stand-in for infinity."""
    constants = [v.const_value for v in node.inputs if v is not None and v.const_value is not None and v.dtype == FP32]
    if node.op_type == "ConstantOfShape" and (fill := node.attributes.get_tensor("value")) and fill.dtype == FP32:
        constants.append(fill)
    for constant in constants:
        magnitude = np.abs(constant.numpy())
        finite = magnitude[(magnitude < INFINITY_STAND_IN) & (magnitude > 0)]
        if finite.size and finite.max() > LARGEST:
            return True
        # Weights have many tiny entries that may vanish; a lone constant such as an epsilon may not.
        if magnitude.size == 1 and finite.size and finite.max() < SMALLEST:
            return True
    return False


def _half_initializer(graph: ir.Graph, value: ir.Value, done: dict[str, ir.Value]) -> ir.Value:
    name = _key(value)
    if name not in done:
        assert value.const_value is not None
        done[name] = ir.val(f"{name}_fp16", const_value=ir.tensor(_to_fp16(value.const_value.numpy())))
        graph.register_initializer(done[name])
    return done[name]


def _to_fp16(array: NDArray[np.generic]) -> NDArray[np.float16]:
    x = np.asarray(array, np.float32)
    masked = np.where(np.abs(x) >= INFINITY_STAND_IN, np.sign(x) * np.float32(MASKED), x)
    return masked.astype(np.float16)


def _cast(
    graph: ir.Graph, value: ir.Value, dtype: ir.DataType, done: dict[tuple[str, ir.DataType], ir.Value]
) -> ir.Value:
    key = (_key(value), dtype)
    if key not in done:
        name = f"{_key(value)}_to_{dtype.name.lower()}"
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        node = ir.node("Cast", [value], {"to": int(dtype)}, outputs=[output], name=f"{name}_Cast")
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        done[key] = output
    return done[key]


def _retype(node: ir.Node, original: dict[str, ir.DataType | None]) -> None:
    """Mark a node's float outputs as FP16, and its ``to``/``value`` attribute where that decides the type."""
    for value in node.outputs:
        if original.get(_key(value)) == FP32:
            value.type = ir.TensorType(FP16)
    if node.op_type == "Cast" and node.attributes.get_int("to") == FP32:
        node.attributes["to"] = ir.AttrInt64("to", int(FP16))
    if node.op_type == "ConstantOfShape" and node.outputs[0].dtype == FP16:
        fill = node.attributes.get_tensor("value")
        array = np.zeros(1, np.float16) if fill is None else _to_fp16(fill.numpy())
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))


def _restore_outputs(graph: ir.Graph, original: dict[str, ir.DataType | None]) -> None:
    """Rule 6: a float output is computed as FP16 under another name and cast to FP32 under its own."""
    for index, value in enumerate(graph.outputs):
        producer = value.producer()
        if producer is None or value.dtype != FP16:
            continue
        name = _key(value)
        value.name = f"{name}_half"
        output = ir.Value(name=name, type=ir.TensorType(FP32), shape=value.shape)
        graph.insert_after(producer, ir.node("Cast", [value], {"to": int(FP32)}, outputs=[output], name=f"{name}_Cast"))
        graph.outputs[index] = output


def _key(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
