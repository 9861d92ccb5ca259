"""Operators of ai.onnx.ml, as scikit-learn's models have them around their products, in ONNX's own.

TensorRT knows none of that domain, and most of it, such as trees, has no other form. These have:

1. Scaler is ``(x - offset) * scale``, in FP32.
2. ArrayFeatureExtractor is a Gather of the last axis, by as many indices as there are.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import name_of

DOMAIN = "ai.onnx.ml"


def rewrite_learned_operators(model: ir.Model) -> None:
    """Apply the rules to the main graph of ``model``, in place."""
    for node in [node for node in model.graph if node.domain == DOMAIN and node.op_type in _FORMS]:
        _Rewrite(model.graph, node).run()


class _Rewrite:
    """One node that others take the place of."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.name = node.name or name_of(node.outputs[0])
        self.nodes: list[ir.Node] = []

    def run(self) -> None:
        result = self.node.outputs[0]
        made, name = _FORMS[self.node.op_type](self), name_of(result)
        made.type, made.shape = result.type, result.shape
        self.graph.insert_before(self.node, self.nodes)
        result.replace_all_uses_with(made, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)
        made.name = name

    def read(self, place: int) -> ir.Value:
        value = self.node.inputs[place]
        assert value is not None  # neither operator has an optional input
        return value

    def floats(self, attribute: str, default: float) -> ir.Value:
        given = self.node.attributes.get(attribute)
        return self.constant(attribute, np.array([default] if given is None else given.as_floats(), np.float32))

    def constant(self, what: str, values: NDArray[np.generic]) -> ir.Value:
        value = ir.val(f"{self.name}::{what}", const_value=ir.tensor(values))
        self.graph.register_initializer(value)
        return value

    def op(self, kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        name = f"{self.name}::{kind}.{len(self.nodes)}"
        self.nodes.append(ir.node(kind, inputs, attributes, outputs=[ir.Value(name=name)], name=name))
        return self.nodes[-1].outputs[0]


def _scaler(rewrite: _Rewrite) -> ir.Value:
    """Rule 1."""
    x = rewrite.op("Cast", rewrite.read(0), to=int(ir.DataType.FLOAT))
    return rewrite.op("Mul", rewrite.op("Sub", x, rewrite.floats("offset", 0)), rewrite.floats("scale", 1))


def _extractor(rewrite: _Rewrite) -> ir.Value:
    """Rule 2: what is taken from an axis alone has two."""
    x, indices = rewrite.read(0), rewrite.op("Reshape", rewrite.read(1), rewrite.constant("all", np.array([-1])))
    if x.shape is not None and len(x.shape) == 1:
        x = rewrite.op("Reshape", x, rewrite.constant("row", np.array([1, -1])))
    return rewrite.op("Gather", x, indices, axis=-1)


_FORMS: dict[str, Callable[[_Rewrite], ir.Value]] = {"Scaler": _scaler, "ArrayFeatureExtractor": _extractor}
