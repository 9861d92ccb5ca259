"""Which group a kernel belongs to, for people who ask where the time of an engine goes.

Only what TensorRT says of a kernel counts, never the names of a model's nodes, which are anybody's: what it multiplies
(``arithmetic``), its kind, the types of its tensors, and its tactic. There Myelin writes what a kernel computes, op by
op: ``__myl_CasAddCasMeaSubMulMea_0x…`` in TensorRT 10.6, ``__myl_CastAddCastMeanSubMulMean_0x…`` in TensorRT-RTX and
later ones. Three letters of each are compared.

A kernel counts once, in the first group that fits, whatever else was fused into it: attention, products, embedding,
norms, activation functions, gathers; then what quantises, moves or computes.
"""

import re
from itertools import pairwise

from calib8.engine.arithmetic import holds, precision_of
from calib8.engine.layers import Layer, Tensor

#: Softmax is here, too: attention that was not fused has it between two GEMMs.
ATTENTION = "attention/softmax"
EMBEDDING = "embedding"
NORM = "norm"
ACTIVATION = "GELU/activation"
GATHER = "gather"
#: Q or DQ and nothing else but a change of layout.
QUANTISATION = "Q/DQ alone"
#: Other arithmetic that ends in Q.
BEFORE_Q = "pointwise before Q"
POINTWISE = "pointwise/reduce"
COPY = "copy/reformat"
OTHER = "other"

_OPS = re.compile(r"^__myl_([A-Za-z0-9]+?)_(?:0x|myl)")
_OP = re.compile(r"[A-Z][a-z0-9]*")
_CONVOLVES = re.compile(r"_(?:fprop|dgrad|implicit_gemm|convolve)_")
_FUNCTIONS = {"Erf", "Gel", "Rel", "Sig", "Sil", "Tan"}
#: Move, transpose, reshape, slice, concatenate, replicate, cast.
_MOVES = {"Mov", "Tra", "Res", "Sli", "Con", "Rep", "Cas"}
_ROUNDS = {"Mul", "Div", "Min", "Max", "Rou"}
#: Kinds of kernels whose tactics name no ops.
_KINDS = {
    **dict.fromkeys(("softmax", "softmaxv2", "cudasoftmax"), ATTENTION),
    **dict.fromkeys(("reformat", "noop", "constant", "cast", "copy", "memset", "reshape", "shape_call"), COPY),
    **dict.fromkeys(("shapehosttodevice", "shuffle", "slice", "concatenation"), COPY),
    **dict.fromkeys(("pointwise", "pointwisev2", "elementwise", "unary", "scale", "reduce"), POINTWISE),
    **dict.fromkeys(("add", "sub", "mul", "div", "select"), POINTWISE),
    "activation": ACTIVATION,
    "gather": GATHER,
}


def group_of(layer: Layer) -> str:
    """The group, for people: one of the names above, or a product with its precision: ``INT8 GEMM``, ``FP16 conv``."""
    ops = _ops(layer)
    if "mha" in layer.tactic or ("Exp", "Sum") in pairwise(ops):
        return ATTENTION
    if product := _product(layer, ops):
        return f"{precision_of(layer)} {product}".strip()
    if ops:
        return _of_ops(layer, ops)
    group = _KINDS.get(layer.kind.lower(), OTHER)
    return QUANTISATION if group == COPY and _converts(layer) else group


def _ops(layer: Layer) -> list[str]:
    """``__myl_CasAddMulMea_0x…`` -> ``["Cas", "Add", "Mul", "Mea"]``; empty where neither tactic nor name tells."""
    told = next(filter(None, map(_OPS.match, (layer.tactic, layer.name))), None)
    return [op[:3] for op in _OP.findall(told[1])] if told is not None else []


def _product(layer: Layer, ops: list[str]) -> str | None:
    kind = layer.kind.lower()
    if "conv" in kind or kind == "correlation" or "Cor" in ops or _CONVOLVES.search(layer.tactic):
        return "conv"
    return "GEMM" if kind == "gemm" or "Fc" in ops or "_gemm_" in layer.tactic else None


def _of_ops(layer: Layer, ops: list[str]) -> str:
    if "Gat" in ops and any(map(_holds_ids, layer.inputs)):
        return EMBEDDING
    if "Sqr" in ops or ("Mul", "Mea") in pairwise(ops):  # the mean of squares, and the root of it
        return NORM
    if _FUNCTIONS & set(ops):
        return ACTIVATION
    return GATHER if "Gat" in ops else _of_arithmetic(layer, set(ops) - _MOVES)


def _of_arithmetic(layer: Layer, computed: set[str]) -> str:
    if _converts(layer) and computed <= _ROUNDS:
        return QUANTISATION
    if not computed:
        return COPY
    return BEFORE_Q if _converts(layer) and _codes(layer.outputs) else POINTWISE


def _holds_ids(tensor: Tensor) -> bool:
    """Ids of tokens have a place in a batch and in a sequence; which channels are gathered is one constant list."""
    return tensor.dtype in ("Int32", "Int64") and (len(tensor.dims) > 1 or -1 in tensor.dims)


def _converts(layer: Layer) -> bool:
    """Is it Q, or DQ? A constant reads nothing."""
    return bool(layer.inputs) and _codes(layer.inputs) != _codes(layer.outputs)


def _codes(tensors: tuple[Tensor, ...]) -> bool:
    """Are some of them INT8 or FP8?"""
    return any(holds(tensor, "int8") or holds(tensor, "fp8") for tensor in tensors)
