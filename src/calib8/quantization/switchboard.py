"""One model that holds every op both in float and quantised, with a switch for each: any plan can be run at once.

    gates[i] ──> If ── then: conditioning -> Q -> DQ -> MatMul(codes) -> Add(correction)
    x        ──>    └─ else: MatMul(weight)

Only the chosen branch is computed. Work that several ops share (one Q/DQ for Q, K and V) stays outside of the branches.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from calib8.calibration.ranges import Ranges
from calib8.data.inputs import Arrays
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.passes.fixed_draws import fix_draws
from calib8.passes.quantize_embedding import quantize_embeddings
from calib8.precision import INT8, Grid
from calib8.quantization.apply import quantize_ops
from calib8.quantization.solve import Solution
from calib8.runtime.choice import by_rule
from calib8.runtime.contract import contract_of
from calib8.runtime.forms import in_form
from calib8.runtime.names import Form
from calib8.runtime.ort import OrtRuntime

GATES = "calib8.gates"


class Switchboard(OrtRuntime):
    """Runs ``model`` with the ops named in ``int8`` quantised and all others in float.

    ``int8`` may be set to any part of ``names`` between runs.
    """

    def __init__(
        self,
        model: ir.Model,
        names: Collection[str],
        ranges: Ranges,
        solutions: Mapping[str, Solution],
        *,
        embedding: bool,
        grid: Grid = INT8,
    ) -> None:
        """``names`` are weighted ops of the prepared ``model``; see ``quantize_ops`` for the rest."""
        self.names = [op.name for op in weighted_ops(model) if op.name in names]
        self.int8: Collection[str] = ()
        self.precision = grid.precision
        board = switched(model, self.names, ranges, solutions, embedding=embedding, grid=grid)
        super().__init__(board, integers=_form(board) != "fp32")
        self.contract = contract_of(model)  # the gates are nobody's business

    def _run(self, arrays: Arrays) -> Arrays:
        gates = np.array([name in self.int8 for name in self.names], np.bool_)
        return super()._run({**arrays, GATES: gates})


def switched(
    model: ir.Model,
    names: list[str],
    ranges: Ranges,
    solutions: Mapping[str, Solution],
    *,
    embedding: bool,
    grid: Grid = INT8,
) -> ir.Model:
    """A clone of ``model`` with one more input, ``GATES`` [len(names)], bool: which ops are quantised."""
    clone = fix_draws(model.clone())
    graph = clone.graph
    outputs = list(graph.outputs)
    pairs = [_twin(graph, op) for op in weighted_ops(clone) if op.name in set(names)]
    quantize_ops(clone, set(names), ranges, solutions, grid)
    if embedding:
        quantize_embeddings(clone)
    in_form(clone, _form(clone))
    _share_codes_only(graph)
    int8 = list(graph.outputs)[len(outputs) :]  # passes replace an output, never its place
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    gates = ir.Value(name=GATES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([len(names)]))
    graph.inputs.append(gates)
    for number, (op, quantised) in enumerate(zip(pairs, int8, strict=True)):
        _switch(graph, gates, number, op, quantised)
    graph.sort()  # a chain that several ops share may stand before the If whose result it conditions
    return clone


def _form(model: ir.Model) -> Form:
    """The fastest that is exact in ONNX Runtime, of all kinds of ops in ``model`` and its branches."""
    return by_rule(model, "onnxruntime", 1).form


def _twin(graph: ir.Graph, op: WeightedOp) -> ir.Node:
    """Put a second node of the op's name beside it, its output an output of the graph; return the first, renamed."""
    node = op.node
    output = ir.Value(name=f"{node.outputs[0].name}::int8", type=node.outputs[0].type, shape=node.outputs[0].shape)
    twin = ir.node(node.op_type, list(node.inputs), dict(node.attributes), outputs=[output], name=node.name)
    node.name = f"{node.name}::float"
    graph.insert_after(node, twin)
    graph.outputs.append(output)
    return node


def _share_codes_only(graph: ir.Graph) -> None:
    """Give each reader of a DequantizeLinear one of its own: ONNX Runtime fuses it with what stands in its branch."""
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        value = node.outputs[0]
        for number, (reader, index) in enumerate(list(value.uses())[1:], start=2):
            output = ir.Value(name=f"{value.name}::{number}", type=value.type, shape=value.shape)
            name = f"{node.name}::{number}"
            graph.insert_after(node, ir.node(node.op_type, node.inputs, node.attributes, outputs=[output], name=name))
            reader.replace_input_with(index, output)


def _switch(graph: ir.Graph, gates: ir.Value, number: int, node: ir.Node, quantised: ir.Value) -> None:
    """Replace the float ``node`` by an If between it and what computes ``quantised``."""
    index = ir.val(f"{GATES}.{number}", const_value=ir.tensor(np.int64(number)))
    graph.register_initializer(index)
    gate = ir.node("Gather", [gates, index], {"axis": 0}, name=f"{GATES}.{number}.Gather")
    gate.outputs[0].name = f"{GATES}.{number}.value"
    gate.outputs[0].type = ir.TensorType(ir.DataType.BOOL)
    plain = node.outputs[0]
    chosen = ir.Value(name=plain.name, type=plain.type, shape=plain.shape)  # the name may be an output's
    plain.name = f"{plain.name}::float"
    plain.replace_all_uses_with(chosen, replace_graph_outputs=True)
    own = _exclusive(quantised)
    switch = ir.node("If", [gate.outputs[0]], outputs=[chosen], name=f"{node.name}::switch")
    graph.insert_after(own[-1], [gate, switch])  # the float node stands before its twin
    for name, nodes, output in (("then_branch", own, quantised), ("else_branch", [node], plain)):
        constants = _constants_of(nodes)  # where ONNX Runtime looks for them when it fuses
        for constant in constants:
            del graph.initializers[constant.name or ""]
        graph.remove(nodes)
        branch = ir.Graph([], [output], nodes=nodes, initializers=constants, name=f"{node.name}::{name}")
        switch.attributes[name] = ir.AttrGraph(name, branch)


def _constants_of(nodes: list[ir.Node]) -> list[ir.Value]:
    """Initializers that nothing but ``nodes`` reads."""
    read = {value for node in nodes for value in node.inputs if value is not None and value.is_initializer()}
    return [value for value in read if all(reader in nodes for reader, _ in value.uses())]


def _exclusive(value: ir.Value) -> list[ir.Node]:
    """The nodes that nothing but ``value`` needs, in order."""
    last = value.producer()
    assert last is not None
    found = {last}
    todo = [last]
    while todo:
        for source in todo.pop().inputs:
            producer = source.producer() if source is not None else None
            if producer is None or producer in found or any(output.is_graph_output() for output in producer.outputs):
                continue
            if all(reader in found for output in producer.outputs for reader, _ in output.uses()):
                found.add(producer)
                todo.append(producer)
    assert last.graph is not None
    return [node for node in last.graph if node in found]
