"""Bring a model into the one form that the other passes expect.

Rules:
1. Constant nodes become initializers, so that a weight is found wherever the exporter put it.
2. A Transpose, Cast or Identity of a constant becomes a constant: exporters leave ``Transpose(weight)`` before MatMul.
   Of a weight that is mapped from a file it is computed whenever it is asked for, else now.
   Other Identity nodes of the main graph go too; in the body of an If or Loop one may be all there is.
3. Nodes without a name get one, and names are unique: plans, globs and reports refer to nodes by name.
4. The default opset is at least 13, the first with per-channel DequantizeLinear.
5. Shapes and types are inferred, for FP16 conversion and for messages.
6. An initializer is no model input: exporters of old list weights among the inputs, where they would stay behind.
7. A dimension of an input of which the exporter knew nothing is free: what bears one name must be of one size.
"""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from calib8.errors import ModelError
from calib8.files import require_path
from calib8.graph.inputs import input_shapes
from calib8.graph.io import load as read
from calib8.graph.mapped import SMALLEST, Folded, mapped_weight
from calib8.graph.values import name_of

MINIMUM_OPSET = 13
FOLDABLE = ("Transpose", "Cast", "Identity")
#: Of ``Value.meta``, which stays in memory.
IDENTITIES = "calib8.identities"


def load(path: Path | str) -> ir.Model:
    """Load an ONNX model and bring it into the form the other functions expect. Raises ``ModelError``.

    Example:

        >>> model = calib8.load("model.onnx")
        >>> [value.name for value in model.graph.inputs]
        ['input_ids', 'attention_mask']
    """
    return prepare(read(require_path(path)))


def prepare(model: ir.Model) -> ir.Model:
    """Return ``model`` in canonical form; numerically the same. Raises ``ModelError`` for opsets that are too old."""
    model = _raise_opset(model)
    common.RemoveInitializersFromInputsPass()(model)  # rule 6
    for value, shape in input_shapes(model.graph):  # rule 7
        value.shape = None if shape is None else ir.Shape(shape)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)  # rule 1
    _fold(model.graph)  # rule 2
    _drop_identities(model.graph)
    common.RemoveUnusedNodesPass()(model)
    _name_nodes(model.graph)  # rule 3
    common.ShapeInferencePass(strict_mode=False)(model)  # rule 5; strict gives up on all nodes because of one
    return model


def dropped_identities(value: ir.Value) -> list[str]:
    """The other names that ``value`` had before ``prepare``: of what an Identity made of it."""
    return list(value.meta.get(IDENTITIES, ()))


def _raise_opset(model: ir.Model) -> ir.Model:
    """Rule 4, by ONNX's own version converter."""
    opset = model.opset_imports.get("", 0)
    if opset >= MINIMUM_OPSET:
        return model
    import onnx.version_converter

    try:
        return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), MINIMUM_OPSET))
    except Exception as error:  # the converter raises bare RuntimeErrors of many kinds
        raise ModelError(
            f"the model has opset {opset} and could not be raised to {MINIMUM_OPSET}, the first with per-channel "
            f"DequantizeLinear: {error}. Export it again with opset 17 or later."
        ) from error


def _fold(graph: ir.Graph) -> None:
    for node in list(graph):
        source = node.inputs[0] if node.op_type in FOLDABLE and node.inputs else None
        if source is None or source.const_value is None or node.outputs[0].is_graph_output():
            continue
        result: ir.TensorProtocol = Folded(node, source.const_value)
        if mapped_weight(result) is None or result.nbytes < SMALLEST:
            result = ir.tensor(result.numpy(), name=result.name)
        folded = ir.val(node.outputs[0].name, const_value=result)
        node.outputs[0].replace_all_uses_with(folded)
        graph.remove(node, safe=True)
        graph.register_initializer(folded)


def _drop_identities(graph: ir.Graph) -> None:
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Identity" else None
        if source is not None and not node.outputs[0].is_graph_output():
            source.meta[IDENTITIES] = [*dropped_identities(source), name_of(node.outputs[0])]
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _name_nodes(graph: ir.Graph) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph):
        base = node.name or f"{node.op_type}_{index}"
        name, suffix = base, 1
        while name in taken:
            name, suffix = f"{base}_{suffix}", suffix + 1
        node.name = name
        taken.add(name)
