"""Bring a model into the one form that the other passes expect.

Rules:
1. Constant nodes become initializers, so that a weight is found wherever the exporter put it; functions of the model's
   own are put in their place, so that the ops in them are.
2. What the graph computes of constants on the way to a weight is computed (see ``fold_constants``). A Transpose, Cast
   or Identity of a constant becomes a constant: exporters leave ``Transpose(weight)`` before MatMul. Of a weight that
   is mapped from a file it is computed whenever it is asked for, else now.
   Other Identity nodes of the main graph go too; in the body of an If or Loop one may be all there is.
3. Nodes without a name get one, and names are unique: plans, globs and reports refer to nodes by name.
4. The default opset is at least 13, the first with per-channel DequantizeLinear.
5. Shapes and types are inferred, for FP16 conversion and for messages.
6. An initializer is no model input: exporters of old list weights among the inputs, where they would stay behind.
7. A dimension of an input of which the exporter knew nothing is free: what bears one name must be of one size. Names
   that an output's axes behind the first have are not believed: of a model that enlarges images ONNX Runtime would put
   the large one in the place of the small one.
8. A Squeeze says which axes it takes: else its rank depends on the data, and neither TensorRT nor OpenVINO takes that.
9. A weight [1, K, N] is the matrix [K, N] where what it multiplies has as many axes.
10. Products that are packed side by side are products of their own (see ``split_packed``).
11. A Cast to the type that a tensor has already is an Identity: TensorRT 10.6 tries some twenty kernels for each.
12. An Einsum that is one product with a weight is a MatMul (see ``einsum``), and a MatMul with a constant on the left
   one with a weight on the right (see ``left_constants``).
13. What computes in FP16 or BF16 computes in FP32 (see ``widen``).
14. Operators of ai.onnx.ml that have a form in ONNX's own get it (see ``learned_operators``).
15. A Pad that a convolution or pooling can do by itself is theirs (see ``fold_pads``).
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from calib8.errors import ModelError
from calib8.files import require_path
from calib8.graph.inputs import input_shapes
from calib8.graph.io import load as read
from calib8.graph.values import IDENTITIES, drop_unread, dropped_identities, name_of, op_of
from calib8.passes.einsum import rewrite_einsums
from calib8.passes.fold_constants import FOLDABLE, fold_constants, fold_lazily
from calib8.passes.fold_pads import fold_pads
from calib8.passes.learned_operators import rewrite_learned_operators
from calib8.passes.left_constants import turn_left_constants
from calib8.passes.split_packed import split_packed
from calib8.passes.widen import widen

MINIMUM_OPSET = 13


def load(path: Path | str) -> ir.Model:
    """Load an ONNX model and bring it into the form the other functions expect. Raises ``ModelError``.

    Example:

        >>> model = calib8.load("model.onnx")
        >>> [value.name for value in model.graph.inputs]
        ['input_ids', 'attention_mask']
    """
    return prepare(read(require_path(path)))


def prepare(model: ir.Model) -> ir.Model:
    """Return ``model`` in canonical form; numerically the same, but for rounding to FP16 that is no longer done.

    Raises ``ModelError`` for opsets that are too old.
    """
    _inline(model)  # rule 1
    model = _raise_opset(model)
    common.RemoveInitializersFromInputsPass()(model)  # rule 6
    for value, shape in input_shapes(model.graph):  # rule 7
        value.shape = None if shape is None else ir.Shape(shape)
    for output in model.graph.outputs:
        if output.shape is not None:
            dims = [size if isinstance(size, int) else None for size in output.shape[1:]]
            output.shape = ir.Shape([*output.shape[:1], *dims])
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)  # rule 1
    rewrite_learned_operators(model)  # rule 14
    widen(model)  # rule 13
    fold_constants(model)  # rule 2
    _fold(model.graph)
    _drop_identities(model.graph)
    common.RemoveUnusedNodesPass()(model)
    _name_nodes(model.graph)  # rule 3
    common.ShapeInferencePass(strict_mode=False)(model)  # rule 5; strict gives up on all nodes because of one
    _drop_identities(model.graph)  # rule 11
    rewritten = _name_axes(model) | turn_left_constants(model) | rewrite_einsums(model)  # rules 8 and 12
    if rewritten | _flatten_weights(model.graph):  # rule 9
        common.ShapeInferencePass(strict_mode=False)(model)
    return split_packed(fold_pads(model))  # rules 15 and 10


def _inline(model: ir.Model) -> None:
    if not model.functions:
        return
    try:
        common.InlinePass()(model)
    except Exception as error:  # of the library, with whatever it found
        raise ModelError(
            f"the functions of the model cannot be put in their places: {error}. Export it again without functions."
        ) from error


def _name_axes(model: ir.Model) -> bool:
    """Rule 8: the axes that are 1 whatever the input is. Whether there was a Squeeze without axes."""
    found = False
    for node in model.graph:
        given = "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
        if op_of(node) != "Squeeze" or given or node.inputs[0] is None or node.inputs[0].shape is None:
            continue
        axes = [axis for axis, size in enumerate(node.inputs[0].shape) if size == 1]
        value = ir.val(f"{node.outputs[0].name}::axes", const_value=ir.tensor(np.array(axes, np.int64)))
        model.graph.register_initializer(value)
        node.resize_inputs(2)
        node.replace_input_with(1, value)
        found = True
    return found


def _flatten_weights(graph: ir.Graph) -> bool:
    """Rule 9. Whether there was one."""
    found = False
    for node in [node for node in graph if op_of(node) == "MatMul"]:
        activation, weight = node.inputs
        if activation is None or weight is None or weight.const_value is None or activation.shape is None:
            continue
        dims = weight.const_value.shape.numpy()
        if len(dims) > 2 and set(dims[:-2]) == {1} and len(activation.shape) >= len(dims):
            values = weight.const_value.numpy().reshape(dims[-2:])
            matrix = ir.val(f"{weight.name}::matrix.{node.name}", const_value=ir.tensor(values))
            graph.register_initializer(matrix)
            node.replace_input_with(1, matrix)
            drop_unread(graph, weight)
            found = True
    return found


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
        if source is not None and source.const_value is not None and not node.outputs[0].is_graph_output():
            fold_lazily(graph, node)


def _drop_identities(graph: ir.Graph) -> None:
    for node in list(graph):
        source = node.inputs[0] if op_of(node) in ("Identity", "Cast") else None
        if op_of(node) == "Cast" and (source is None or source.dtype != node.attributes.get_int("to")):
            continue
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
