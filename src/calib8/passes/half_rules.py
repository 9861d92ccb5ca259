"""Which nodes may compute in FP16, and what FP16 holds in place of infinity. The rules are those of ``half``."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.errors import ModelError
from calib8.graph.running_sum import counts
from calib8.graph.value_sizes import deciding
from calib8.graph.values import MOVING, has_body, op_of, readers_of

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
#: The types of half the size, and what they are called.
HALVES = {FP16: "fp16", ir.DataType.BFLOAT16: "bf16"}
LARGEST = 65504.0
SMALLEST = 2.0**-24
QDQ = ("QuantizeLinear", "DequantizeLinear")
ANGLES = ("Sin", "Cos")
#: Mark (``Node.meta``) of nodes that condition an activation before Q: they must round as they were designed.
CONDITIONING = "calib8.conditioning"
#: Mark (``Value.meta``) of tensors that calibration observed: whether FP16 does not hold them (see ``reach``).
REACH = "calib8.reach"
#: Operators of normalisation, whole or decomposed into squares, means and roots.
NORMALISING = (
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization"),
    *("MeanVarianceNormalization", "ReduceMean", "ReduceL2", "ReduceSumSquare", "Pow", "Sqrt", "Reciprocal"),
)
#: Of these, what gives squares or norms that may be beyond FP16 (and so does the product of a value with itself).
SQUARING = ("Pow", "ReduceL2", "ReduceSumSquare")
#: Operators that only keep, pick or average values of what they read, or turn their sign.
KEEPING = (
    *MOVING, *QDQ, "Abs", "AveragePool", "Concat", "Gather", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Neg",
    "Relu", "Split", "Tile",
)  # fmt: skip
#: What passes such a result on, where its other inputs are constants or such results too.
CARRYING = (*MOVING, "ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Add", "Sub", "Mul", "Div", "Min", "Max", "Clip")
#: What never stays FP32: the operators that FP16 is for.
GEMMS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum")
#: Readers that look at a tensor's shape, not at its numbers.
SHAPE_READERS = ("Shape", "Size")
SOFTMAX = ("Softmax", "LogSoftmax")
#: What leads attention masks to the scores that Softmax reads.
SCORING = (*MOVING, "Add", "Sub", "Mul", "Where", "Concat", "ConstantOfShape", "ScatterND", "Trilu")
#: Attributes that fix the type of an output.
TYPE_ATTRIBUTES = ("dtype", "output_datatype")


@dataclass(frozen=True)
class StandIn:
    """Magnitudes above ``above`` mean infinity; FP16 holds ``becomes`` in their place."""

    above: float
    becomes: float

    def rounded(self, array: NDArray[np.generic], half: ir.DataType) -> NDArray[np.generic]:
        """The numbers as FP16 or BF16."""
        x = np.asarray(array, np.float32)
        return np.where(np.abs(x) > self.above, np.sign(x) * np.float32(self.becomes), x).astype(half.numpy())

    def fits(self, array: NDArray[np.generic]) -> bool:
        """Whether FP16 keeps the numbers: none becomes infinite, and no lone one becomes zero.

        Weights have many tiny entries that may vanish; a lone constant such as an epsilon may not.
        """
        magnitude = np.abs(np.asarray(array, np.float32))
        finite = magnitude[(magnitude <= self.above) & (magnitude > 0)]
        return not finite.size or bool(finite.max() <= LARGEST and (magnitude.size > 1 or finite.max() >= SMALLEST))


#: Half the FP16 range, so that adding a score cannot overflow. 1e9 itself counts.
MASKED = StandIn(above=0.999e9, becomes=32752.0)
MASKED_SCORE = StandIn(above=LARGEST, becomes=32752.0)
BOUND = StandIn(above=LARGEST, becomes=LARGEST)


class HalfRules:
    """The rules applied to one graph, whose types are known."""

    def __init__(self, graph: ir.Graph, opset: int, half: ir.DataType = FP16) -> None:
        """``half`` is FP16 or BF16. Raises ``ModelError`` for a node of unknown type (rule 4)."""
        refuse_unknown_types(graph)
        self.half = half
        self._opset = opset
        self._scoring = scoring_nodes(graph)
        self._kept = self._kept_nodes(graph)

    def is_half(self, node: ir.Node) -> bool:
        """Whether ``node`` computes in FP16."""
        return node not in self._kept

    def wanted(self, node: ir.Node, index: int) -> ir.DataType:
        """The type in which ``node`` takes its float input number ``index``."""
        schema = _schema(node, self._opset)
        fixed = schema is not None and index < len(schema.inputs) and schema.inputs[index].type_str == "tensor(float)"
        return FP32 if fixed or not self.is_half(node) else self.half

    def stand_in(self, node: ir.Node) -> StandIn:
        """Rule 5: what means infinity among the constants of ``node``."""
        if node.op_type in ("Clip", "Min", "Max"):
            return BOUND
        return MASKED_SCORE if node in self._scoring else MASKED

    def _kept_nodes(self, graph: ir.Graph) -> set[ir.Node]:
        kept = {n for n in graph if n.op_type in (*QDQ, *NORMALISING) or n.meta.get(CONDITIONING) or _precise(n)}
        kept |= {node for node in graph if has_body(node) or _has_lengths(node)}  # rules 9 and 11
        kept |= {node for node in graph if not self._allows_half(node)} | _index_nodes(graph) | deciding(graph)
        beyond = {n for n in graph if n.op_type in SQUARING or (n.op_type == "Mul" and n.inputs[0] is n.inputs[1])}
        beyond |= {node for node in graph if node not in kept and not self._constants_fit(node)}
        kept |= beyond | _reading(graph, beyond)
        return kept if self.half != FP16 else kept | _touching(graph, _unheld(graph))

    def _constants_fit(self, node: ir.Node) -> bool:
        constants = [v.const_value for v in node.inputs if v is not None and v.const_value is not None]
        if node.op_type == "ConstantOfShape" and (fill := node.attributes.get_tensor("value")):
            constants.append(fill)
        stand_in = self.stand_in(node)
        return all(stand_in.fits(c.numpy()) for c in constants if c.dtype == FP32)

    def _allows_half(self, node: ir.Node) -> bool:
        """Rule 4: does ONNX define the node's type variable for float16?"""
        schema = _schema(node, self._opset)
        if schema is None or any(name in node.attributes for name in TYPE_ATTRIBUTES):
            return False
        variables = {parameter.type_str for parameter in [*schema.inputs, *schema.outputs]}
        return all(
            "tensor(float16)" in constraint.allowed_type_strs
            for constraint in schema.type_constraints
            if constraint.type_param_str in variables and "tensor(float)" in constraint.allowed_type_strs
        )


def refuse_unknown_types(graph: ir.Graph) -> None:
    """Raise ``ModelError`` for a node of unknown type (rule 4)."""
    for node in graph:
        if any(v.dtype is None and (v.uses() or v.is_graph_output()) for v in node.outputs):
            raise ModelError(
                f"the output type of node {node.name!r} ({node.op_type} of domain {node.domain or 'ai.onnx'!r}) is "
                "unknown, so what reads it cannot become FP16. Keep FP32 (--remainder fp32; of a float engine "
                "--precision fp32), or export the model without that operator."
            )


def scoring_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Nodes whose result is added to, chosen for or multiplied into what a Softmax reads."""
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):  # readers before producers
        if node.op_type in SCORING and any(r.op_type in SOFTMAX or r in found for r in readers_of(node)):
            found.add(node)
    return found


def _reading(graph: ir.Graph, beyond: set[ir.Node]) -> set[ir.Node]:
    """Rule 8: what reads results that may be beyond FP16."""
    found: set[ir.Node] = set()
    carrying = set(beyond)
    for node in graph:  # producers before readers
        floats = floats_of(node)
        carried = [value for value in floats if value.producer() in carrying]
        if not carried or node.op_type in GEMMS:
            continue
        found.add(node)
        if node.op_type in CARRYING and len(carried) == len(floats):
            carrying.add(node)
    return found


def floats_of(node: ir.Node) -> list[ir.Value]:
    """The float inputs of ``node`` that are no constants."""
    return [value for value in node.inputs if value is not None and value.dtype == FP32 and value.const_value is None]


def _unheld(graph: ir.Graph) -> set[ir.Value]:
    """Rule 10: what is marked, and what nobody observed and goes as far as what it is made of."""
    found = {value for value in graph.inputs if value.meta.get(REACH)}
    for node in graph:  # producers before readers
        follows = op_of(node) in (*KEEPING, *CARRYING) and bool(found.intersection(node.inputs))
        found.update(value for value in node.outputs if value.meta.get(REACH, follows))
    return found


def _touching(graph: ir.Graph, values: set[ir.Value]) -> set[ir.Node]:
    return {node for node in graph if values.intersection(node.inputs) or values.intersection(node.outputs)}


def _index_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Rule 3: nodes that turn floats into integers or booleans, and what computes floats for such and angles only."""
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):  # readers before producers
        if node.op_type in (*SHAPE_READERS, *QDQ):
            continue
        floats = [value for value in node.outputs if value.dtype == FP32]
        readers = [reader for value in floats for reader, _ in value.uses() if reader.op_type not in SHAPE_READERS]
        if any(value.is_graph_output() for value in floats) or (floats and not readers):
            continue
        if all(_precise(reader) or reader in found for reader in readers):
            found.add(node)
    return found


def _precise(node: ir.Node) -> bool:
    """Rule 3: must ``node`` read its floats as they are?"""
    return node.op_type in ANGLES or counts(node)


def _has_lengths(node: ir.Node) -> bool:
    """Rule 11: the lengths are the fifth input."""
    return op_of(node) in ("GRU", "LSTM", "RNN") and len(node.inputs) > 4 and node.inputs[4] is not None


def _schema(node: ir.Node, opset: int) -> "onnx.defs.OpSchema | None":
    try:
        return onnx.defs.get_schema(op_of(node), opset)
    except onnx.defs.SchemaError:
        return None
