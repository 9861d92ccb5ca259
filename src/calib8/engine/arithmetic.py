"""What a kernel multiplies. Judged by its tactic, which TensorRT names after the types, else by what it reads.

``sm90_xmma_gemm_i8f16_i8i32_f32_tn_…``: INT8 in, FP16 out; products of INT8 summed in INT32; the epilogue in FP32. The
second pair is the arithmetic: ``i8i32`` is INT8, ``e4m3f32`` FP8, ``f16f16`` and ``tf32f32`` float. Fusions have such
names too, with ``_by_fusion_tactic`` at the end. TensorRT-RTX plans without a GPU and has no tactics yet: there an INT8
GEMM is a ``gemm``, an INT8 convolution a ``correlation``, that reads Int8 (or FP8) from both sides. A GEMM that was
silently dequantised is a ``runtime_fusion`` there, such a convolution a ``correlation`` that reads Half.
"""

import re

from calib8.engine.layers import Layer, Tensor
from calib8.precision import GRIDS, Precision

_SCALAR = r"(?:b?f\d+|tf32|[ius]\d+|e\dm\d)"
_PAIR = re.compile(rf"(?<=_)({_SCALAR})({_SCALAR})(?=_|$)")
_TYPES = {precision: re.compile(grid.tensors, re.IGNORECASE) for precision, grid in GRIDS.items()}
#: How tactics call a float -> its name for people, and how tensors call it.
_FLOATS = {
    "f16": ("FP16", re.compile(r"\b(?:Half|FP16)\b")),
    "bf16": ("BF16", re.compile(r"\b(?:BFloat16|BF16)\b")),
    "f32": ("FP32", re.compile(r"\b(?:Float|FP32)\b")),
}


def multiplies(layer: Layer, precision: Precision) -> bool:
    """Does this kernel multiply numbers of this precision by each other?"""
    operand = _operand(layer.tactic)
    if operand is not None:
        return operand in GRIDS[precision].tactics
    read = sum(holds(tensor, precision) for tensor in (*layer.inputs, *layer.constants))
    read += _TYPES[precision].search(layer.weights) is not None
    return read >= 2 and _is_plain_product(layer)


def precision_of(product: Layer) -> str:
    """What a kernel that multiplies does it in, for people: ``INT8``, ``FP8``, ``FP16``, ``BF16``, ``TF32``, ``FP32``.

    A float precision that no tactic tells is the first that it reads; "" if it reads none.
    """
    if coded := next((precision for precision in GRIDS if multiplies(product, precision)), None):
        return coded.upper()
    operand = _operand(product.tactic)
    if operand is not None:
        return _FLOATS[operand][0] if operand in _FLOATS else operand.upper()
    read = (tensor.dtype for tensor in (*product.inputs, *product.constants))
    return next((name for dtype in read for name, pattern in _FLOATS.values() if pattern.search(dtype)), "")


def is_product(layer: Layer) -> bool:
    """Does it multiply matrices, or convolve, in whatever precision?"""
    return _is_plain_product(layer) or layer.kind.endswith("fusion") or _operand(layer.tactic) is not None


def _is_plain_product(layer: Layer) -> bool:
    return layer.kind in ("gemm", "correlation") or "conv" in layer.kind.lower()


def holds(tensor: Tensor, precision: Precision) -> bool:
    """Is the tensor of this precision, in any layout?"""
    return _TYPES[precision].search(tensor.dtype) is not None


def _operand(tactic: str) -> str | None:
    """The type of what is multiplied, as the tactic's name tells; None if it does not."""
    pairs = _PAIR.findall(tactic)
    summed = [operand for operand, total in pairs if total == "i32"]
    if summed:
        return str(summed[0])
    return str(pairs[1][0]) if len(pairs) > 1 else None
