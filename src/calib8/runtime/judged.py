"""Models as those need them who judge: with the arithmetic of an engine, the same draws in every run, and an answer to
where NaN came from."""

import numpy as np
import onnx_ir as ir

from calib8.data.inputs import Arrays
from calib8.graph.values import name_of, op_of
from calib8.passes.fixed_draws import fix_draws
from calib8.runtime.base import Runtime
from calib8.runtime.choice import by_rule
from calib8.runtime.cpu import open_cpu, remarks
from calib8.runtime.forms import computes_half, in_form
from calib8.runtime.ort import OrtRuntime

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def open_reference(model: ir.Model) -> Runtime:
    """Open what others are compared with, on the CPU in FP32."""
    return TracedRuntime(in_form(fix_draws(model.clone()), "fp32"))


def open_as_built(model: ir.Model) -> Runtime:
    """Open ``model`` on the CPU with the arithmetic of an engine: what is FP16 is rounded to FP16 behind every op.

    ``open_cpu`` computes that in FP32, which is faster and does not overflow. A model without FP16 is opened so.
    """
    model = fix_draws(model.clone())
    if not computes_half(model):
        return open_cpu(model)
    form = by_rule(model, "onnxruntime", 1).form
    opened = TracedRuntime(in_form(model, form, rounded=True), integers=form != "fp32")
    opened.computes_fp16 = True
    opened.description += f"{remarks(model, 'onnxruntime', form)}, FP16 rounded behind every op as in an engine"
    return opened


class TracedRuntime(OrtRuntime):
    """ONNX Runtime with the ``model`` at hand."""

    def __init__(self, model: ir.Model, *, integers: bool = False) -> None:
        super().__init__(model, integers=integers)
        self._model = model

    def not_finite_from(self, arrays: Arrays) -> str | None:
        """The first node that makes infinity of finite numbers, or NaN of what is none; None if nobody knows."""
        whole = self._model.clone()
        floats = [value for node in whole.graph for value in node.outputs if value.dtype in FLOATS and value.name]
        whole.graph.outputs.clear()
        whole.graph.outputs.extend(floats)
        with OrtRuntime(whole, optimised=False) as opened:
            found = opened.compute(arrays)
        worst = {name: _worst(array) for name, array in found.items()}
        for node in whole.graph:
            known = [worst.get(name_of(v), _constant(v)) for v in node.inputs if v is not None]
            makes = max((worst.get(name_of(v), 0) for v in node.outputs), default=0)
            if makes > max(known, default=0):
                return _named(node)
        return None


def _worst(array: object) -> int:
    """0 for finite numbers, 1 with infinity among them, 2 with NaN."""
    numbers = np.asarray(array)
    return 2 if np.isnan(numbers).any() else int(np.isinf(numbers).any())


def _constant(value: ir.Value) -> int:
    constant = value.const_value
    return _worst(constant.numpy()) if constant is not None and constant.dtype in FLOATS else 0


def _named(node: ir.Node) -> str:
    """``node 'mul' (Mul), tensor 's'``; of the Cast that rounds, what it rounds."""
    value = node.outputs[0]
    while op_of(node) == "Cast" and (source := node.inputs[0]) is not None and (maker := source.producer()) is not None:
        node, value = maker, source
    return f"node {node.name!r} ({node.op_type}), tensor {name_of(value)!r}"
