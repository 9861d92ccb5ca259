"""The numbers that a model draws at random are the same in every run: for those who compare runs, never for an engine.

Calibration runs a batch twice, and what quantisation changes can be told from chance only where there is none. With
noise switched off instead, ranges would be too narrow for what is drawn in use.

Rules:
1. RandomNormal, RandomUniform and their Like forms become fixed numbers of the same distribution: as many as are wanted
   of ``DRAWN``, from the first on, over again where they are not enough. Each node has its own, by the name of what it
   gives, which passes keep.
2. In bodies of If, Loop and Scan they stay.
"""

import zlib

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calib8.graph.values import name_of, op_of

DRAWN = 2**16
NORMAL = ("RandomNormal", "RandomNormalLike")
UNIFORM = ("RandomUniform", "RandomUniformLike")


def fix_draws(model: ir.Model) -> ir.Model:
    """Apply the rules to ``model``, in place, and return it."""
    for node in [node for node in model.graph if op_of(node) in (*NORMAL, *UNIFORM)]:
        _fix(model.graph, node)
    return model


def _fix(graph: ir.Graph, node: ir.Node) -> None:
    output, name = node.outputs[0], name_of(node.outputs[0])

    def constant(what: str, array: NDArray[np.generic]) -> ir.Value:
        value = ir.val(f"{name}::{what}", const_value=ir.tensor(array))
        graph.register_initializer(value)
        return value

    def op(kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        nodes.append(ir.node(kind, inputs, attributes, outputs=[ir.Value(name=f"{name}::{kind}")]))
        return nodes[-1].outputs[0]

    nodes: list[ir.Node] = []
    drawn = _drawn(node, np.random.default_rng(zlib.crc32(name.encode()))).astype(
        (output.dtype or ir.DataType.FLOAT).numpy()
    )
    like = node.inputs[0] if node.inputs else None
    shape = op("Shape", like) if like is not None else constant("shape", _own_shape(node))
    zero, one = constant("zero", np.array(0)), constant("one", np.array(1))
    each = op("Range", zero, op("ReduceProd", shape, keepdims=0), one)
    picked = op("Gather", constant("drawn", drawn), op("Mod", each, constant("count", np.array(DRAWN))))
    result = op("Reshape", picked, shape)
    result.type, result.shape = output.type, output.shape
    graph.insert_before(node, nodes)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    result.name = name


def _drawn(node: ir.Node, random: np.random.Generator) -> NDArray[np.float64]:
    if op_of(node) in NORMAL:
        return random.normal(node.attributes.get_float("mean", 0.0), node.attributes.get_float("scale", 1.0), DRAWN)
    return random.uniform(node.attributes.get_float("low", 0.0), node.attributes.get_float("high", 1.0), DRAWN)


def _own_shape(node: ir.Node) -> NDArray[np.int64]:
    return np.array(node.attributes["shape"].as_ints(), np.int64)
