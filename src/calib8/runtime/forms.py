"""The forms of an INT8 model that a CPU runtime can be given, which all have the same dequantised values."""

import onnx_ir as ir

from calib8.graph.codes import precision_of
from calib8.passes.cpu_form import to_cpu_form
from calib8.precision import GRIDS
from calib8.runtime.names import NAMES, Form, RuntimeName

#: In words.
WORDS: dict[Form, str] = {"s8": "s8", "u8": "u8", "u8u8": "u8 x u8", "fp32": "FP32"}
#: With both sides, for those who compare them.
PRODUCTS: dict[Form, str] = {"s8": "s8 x s8", "u8": "u8 x s8", "u8u8": "u8 x u8", "fp32": "FP32"}


def words(runtime: RuntimeName, form: Form) -> str:
    """``ONNX Runtime, u8 x u8``."""
    return f"{NAMES[runtime]}, {PRODUCTS[form]}"


def in_form(model: ir.Model, form: Form, *, rounded: bool = False) -> ir.Model:
    """Rewrite ``model`` in place and return it; ``rounded`` as an engine rounds, see ``to_cpu_form``."""
    return to_cpu_form(model, unsigned=form in ("u8", "u8u8"), unsigned_weights=form == "u8u8", rounded=rounded)


def computes_half(model: ir.Model) -> bool:
    """Whether an op of the model computes in FP16."""
    return any(value.dtype == ir.DataType.FLOAT16 for node in model.graph.all_nodes() for value in node.outputs)


def is_quantised(model: ir.Model) -> bool:
    """Whether activations go through Q, in the graph or in a branch of it."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.all_nodes())


def float_codes(model: ir.Model) -> str | None:
    """``FP8`` of codes that are floats, for which a CPU multiplies in FP32 what they stand for; None of others."""
    precision = precision_of(model)
    return None if GRIDS[precision].even else precision.upper()


def has_codes_for_cpu(model: ir.Model) -> bool:
    """Whether a CPU runtime may have kernels that multiply its codes."""
    return is_quantised(model) and not float_codes(model)
