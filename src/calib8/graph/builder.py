"""Graphs written down node by node: the tiny models of tests, and of what asks a runtime whether it is exact."""

from typing import Any

import numpy as np
import onnx_ir as ir


class GraphBuilder:
    """Builds a graph node by node. Constants are drawn from one seed, so that a model is the same every time."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.random = np.random.default_rng(8)
        self.nodes: list[ir.Node] = []
        self.inputs: list[ir.Value] = []
        self.constants: list[ir.Value] = []

    def input(self, name: str, dtype: ir.DataType, *shape: int | str | None) -> ir.Value:
        """A model input."""
        self.inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape)))
        return self.inputs[-1]

    def constant(self, name: str, array: Any, dtype: Any = np.float32) -> ir.Value:
        """An initializer with these numbers."""
        self.constants.append(ir.val(name, const_value=ir.tensor(np.asarray(array, dtype), name=name)))
        return self.constants[-1]

    def weight(self, name: str, *shape: int) -> ir.Value:
        """A random initializer whose products keep the size of what they multiply."""
        return self.constant(name, self.random.normal(size=shape) / np.sqrt(shape[0]))

    def op(self, op_type: str, *inputs: ir.Value, name: str = "", **attributes: Any) -> ir.Value:
        """The first output of a new node; ``name`` names the node, and its output ``<name>_out``."""
        name = name or f"{op_type}_{len(self.nodes)}"
        output = ir.Value(name=f"{name}_out")
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=name))
        return output

    def model(self, **outputs: ir.Value) -> ir.Model:
        """The model, each output renamed to its keyword, types and shapes inferred."""
        for name, value in outputs.items():
            value.name = name
        graph = ir.Graph(
            self.inputs,
            list(outputs.values()),
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": self.opset},
            name="tiny",
        )
        return _inferred(ir.Model(graph, ir_version=10, producer_name="calib8"))


def _inferred(model: ir.Model) -> ir.Model:
    from onnx_ir.passes import common

    return common.ShapeInferencePass()(model).model
