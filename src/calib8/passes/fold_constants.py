"""Compute weights that the graph computes from constants: an exporter leaves reshapes, merges and norms of them there.

Rules:
1. Folded is what leads to a weight, to a table or to the counts of a Pad and reads nothing but constants: all else
   costs nothing, and is not touched.
2. Only operators that move values or compute each by itself: what is drawn at random, or has a state, is none of them,
   and a DequantizeLinear stays, whose codes are what a quantised model is about.
3. What has more values than all that it is computed from stays: an Expand or a Tile. Bytes do not count: weights may be
   stored in FP16 or in codes, with a Cast and a Mul by their scale behind.
4. A Transpose, Cast or Identity of a weight that is mapped from a file is computed whenever it is asked for.
5. Sizes are constants where somebody knows the shapes. Those that a file tells of what is computed are not believed:
   they may be of another input than the model's.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from calib8.graph.mapped import SMALLEST, Folded, mapped_weight
from calib8.graph.values import name_of, op_of

#: Rule 4.
FOLDABLE = ("Transpose", "Cast", "Identity")
#: Rule 2.
MOVES = ("Concat", "Flatten", "Gather", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
COMPUTES = (
    *("Abs", "Add", "Cast", "Div", "Exp", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"),
    *("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Sign", "Where"),
    *("Clip", "Einsum", "Equal", "Expand", "MatMul", "ConstantOfShape", "Range", "Shape", "Softmax", "Tile"),
)
#: The inputs by which operators read what rule 1 means.
READ = {
    **dict.fromkeys(("MatMul", "Gemm", "Einsum"), (0, 1)),
    **dict.fromkeys(("Conv", "ConvTranspose"), (1,)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), (1, 2)),
    "Gather": (0,),
    "Pad": (1, 2),
}
#: Nobody knows.
NONE: Mapping[str, ir.Shape] = MappingProxyType({})
#: Values up to which rule 3 does not matter.
SMALL = 2**14


def fold_constants(model: ir.Model, shapes: Mapping[str, ir.Shape] = NONE) -> ir.Model:
    """Fold what rule 1 means in the main graph of ``model``, in place, and return it; the same numbers.

    ``shapes``: those that are known, by the names of tensors (rule 5).
    """
    wanted = _leading_to_constants(model.graph)
    for node in list(model.graph):
        if node in wanted and all(value is None or value.const_value is not None for value in node.inputs):
            fold(model, node)
        elif node in wanted and (size := _size(node, shapes)) is not None:
            _replace(model.graph, node.outputs[0], size)
            model.graph.remove(node, safe=True)
    return model


def _size(node: ir.Node, shapes: Mapping[str, ir.Shape]) -> NDArray[np.int64] | None:
    """Rule 5: what a Gather takes out of a Shape, if that is known."""
    shape, index = (node.inputs[0], node.inputs[1]) if op_of(node) == "Gather" else (None, None)
    producer = shape.producer() if shape is not None else None
    if producer is None or op_of(producer) != "Shape" or producer.attributes or producer.inputs[0] is None:
        return None
    dims = shapes.get(name_of(producer.inputs[0]))
    if dims is None or index is None or index.const_value is None or node.outputs[0].is_graph_output():
        return None
    taken = [dims[int(number)] for number in index.const_value.numpy().reshape(-1)]
    known = [size for size in taken if isinstance(size, int)]
    return np.array(known, np.int64).reshape(index.const_value.shape.numpy()) if len(known) == len(taken) else None


def _replace(graph: ir.Graph, output: ir.Value, array: NDArray[Any]) -> None:
    folded = ir.val(name_of(output), const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape)))
    output.replace_all_uses_with(folded)
    output.name = f"{output.name}::folded"
    graph.register_initializer(folded)


def _leading_to_constants(graph: ir.Graph) -> set[ir.Node]:
    found: set[ir.Node] = set()
    todo = [node.inputs[slot] for node in graph for slot in READ.get(op_of(node), ()) if slot < len(node.inputs)]
    while todo:
        producer = value.producer() if (value := todo.pop()) is not None else None
        if producer is not None and producer not in found and op_of(producer) in (*MOVES, *COMPUTES):
            found.add(producer)
            todo += producer.inputs
    return found


def fold(model: ir.Model, node: ir.Node) -> None:
    """Compute ``node`` of ``model``, which reads nothing but constants, in place; rule 3 may leave it there."""
    read = [value for value in node.inputs if value is not None]
    if any(output.is_graph_output() for output in node.outputs):
        return
    if op_of(node) in FOLDABLE and mapped_weight(read[0].const_value) is not None:
        fold_lazily(model.graph, node)
        return
    inputs = {name_of(value): value.const_value.numpy() for value in read if value.const_value is not None}
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    try:
        results = _computed(model, node, inputs)
    except Exception:  # a form that ONNX's reference does not know: it stays
        return
    if sum(array.size for array in results) > max(SMALL, sum(array.size for array in inputs.values())):
        return  # rule 3
    for output, array in zip(node.outputs, results, strict=True):
        if output.uses():
            _replace(model.graph, output, array)
    model.graph.remove(node, safe=True)


def fold_lazily(graph: ir.Graph, node: ir.Node) -> None:
    """Rule 4 for a ``node`` of ``FOLDABLE`` that reads a constant of any kind; a small result is computed now."""
    source = node.inputs[0]
    assert source is not None
    assert source.const_value is not None
    result: ir.TensorProtocol = Folded(node, source.const_value)
    if mapped_weight(result) is None or result.nbytes < SMALLEST:
        result = ir.tensor(result.numpy(), name=result.name)
    folded = ir.val(node.outputs[0].name, const_value=result)
    node.outputs[0].replace_all_uses_with(folded)
    graph.remove(node, safe=True)
    graph.register_initializer(folded)


def _computed(model: ir.Model, node: ir.Node, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX's own reference makes of the node."""
    alone = {
        name: ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(a.dtype))) for name, a in inputs.items()
    }
    read = [None if value is None else alone[name_of(value)] for value in node.inputs]
    outputs = [ir.Value(name=f"folded.{number}") for number in range(len(node.outputs))]
    copy = ir.Node("", node.op_type, read, node.attributes.values(), outputs=outputs)
    graph = ir.Graph(list(alone.values()), outputs, nodes=[copy], opset_imports={"": model.opset_imports[""]})
    evaluator = ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=model.ir_version)))
    with np.errstate(all="ignore"):
        return [np.asarray(array) for array in evaluator.run(None, inputs)]
