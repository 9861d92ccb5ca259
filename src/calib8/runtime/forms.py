"""The forms of an INT8 model that a CPU runtime can be given, which all have the same dequantised values."""

import onnx_ir as ir

from calib8.graph.codes import precision_of
from calib8.passes.cpu_form import to_cpu_form
from calib8.runtime.names import NAMES, Form, RuntimeName

#: In words.
WORDS: dict[Form, str] = {"s8": "s8", "u8": "u8", "u8u8": "u8 x u8", "fp32": "FP32"}
#: With both sides, for those who compare them.
PRODUCTS: dict[Form, str] = {"s8": "s8 x s8", "u8": "u8 x s8", "u8u8": "u8 x u8", "fp32": "FP32"}


def words(runtime: RuntimeName, form: Form) -> str:
    """``ONNX Runtime, u8 x u8``."""
    return f"{NAMES[runtime]}, {PRODUCTS[form]}"


def in_form(model: ir.Model, form: Form) -> ir.Model:
    """Rewrite ``model`` in place and return it."""
    return to_cpu_form(model, unsigned=form in ("u8", "u8u8"), unsigned_weights=form == "u8u8")


def is_quantised(model: ir.Model) -> bool:
    """Whether activations go through Q, in the graph or in a branch of it."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.all_nodes())


def in_fp8(model: ir.Model) -> bool:
    """Whether its codes are FP8, which no CPU multiplies: what they stand for is multiplied in FP32."""
    return precision_of(model) == "fp8"


def has_codes_for_cpu(model: ir.Model) -> bool:
    """Whether a CPU runtime may have kernels that multiply its codes."""
    return is_quantised(model) and not in_fp8(model)
