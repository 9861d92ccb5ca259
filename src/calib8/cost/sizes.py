"""The shapes of all tensors of a model for inputs of known shapes, those included that it computes of sizes.

ONNX's inference does not follow a size from a Shape to the end of a Slice, by which exporters cut a table of positions
to the length of a batch; so sizes are computed, and it is asked again.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from calib8.graph.shapes import Inference, Shape
from calib8.graph.values import name_of, op_of
from calib8.passes.fold_constants import COMPUTES, MOVES, fold


def shapes_for(model: ir.Model, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """Tensor name -> shape, as far as it follows from those of ``inputs``."""
    fixed = model.clone()
    found: dict[str, Shape] = {}
    while len(known := found | Inference(fixed).of(inputs)) > len(found):
        found = known
        for node in list(fixed.graph):
            read = [value for value in node.inputs if value is not None]
            if op_of(node) == "Shape" and read[0].name in found:
                _state(fixed, node, found[read[0].name])
            elif op_of(node) in (*MOVES, *COMPUTES) and all(value.const_value is not None for value in read):
                fold(fixed, node)
    constants = {name: value.const_value for name, value in fixed.graph.initializers.items()}
    return found | {name: tuple(one.shape.numpy()) for name, one in constants.items() if one is not None}


def _state(model: ir.Model, node: ir.Node, shape: Shape) -> None:
    """Put the constant that the Shape ``node`` gives in its place."""
    (output,) = node.outputs
    if output.is_graph_output():
        return
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    sizes = ir.val(name_of(output), const_value=ir.tensor(np.array(shape[start:end], np.int64)))
    output.replace_all_uses_with(sizes)
    output.name = f"{output.name}::stated"
    model.graph.register_initializer(sizes)
    model.graph.remove(node, safe=True)
