"""What several tests of conditioned sites share: weights to the nearest, numpy's prediction, and Q/DQ taken out."""

import numpy as np
import onnx
import onnx_ir as ir
from seen_rows import patches

from calib8.graph.site import Site, matrix_of, weight_of
from calib8.numerics import quantize, scale_of
from calib8.passes.condition import Codes, Conditioning, Quantised
from calib8.quantization.rounding import nearest


def product(rows: np.ndarray, matrix: np.ndarray, groups: int) -> np.ndarray:
    """Rows [n, K] times a matrix in blocks, as integers if both are."""
    columns = np.split(rows, groups, axis=1)
    return np.concatenate([a @ b for a, b in zip(columns, np.split(matrix, groups), strict=True)], axis=1)


def quantised(site: Site, conditioning: Conditioning, bias: np.ndarray) -> Quantised:
    """To the nearest; ``bias`` is repeated or cut to the outputs of all ops together."""
    weights, first = {}, 0
    everything = np.resize(bias, sum(op.channels for op in site.ops)).astype(np.float32)
    for op in site.ops:
        conditioned = conditioning.spread(site.taps).weight(matrix_of(op, site.groups))
        rounded = [nearest(block) for block in np.split(conditioned, site.groups)]
        codes, scale = (np.concatenate([getattr(block, name) for block in rounded]) for name in ("codes", "scale"))
        weights[op.name] = Codes(codes, scale, everything[first : first + op.channels])
        first += op.channels
    return Quantised(conditioning, weights)


def rows_of(site: Site, x: np.ndarray) -> np.ndarray:
    """Everything that the site's matrix meets, [n, K]."""
    if site.window is None:
        return x.reshape(-1, x.shape[-1])
    return patches(site.window, x, np.ones((len(x), *site.window.outputs(x.shape[2:])), np.bool_))


def predicted(site: Site, x: np.ndarray, q: Quantised) -> np.ndarray:
    """The outputs of all ops side by side, [n, N], summed as integers by numpy alone."""
    rows, scale = rows_of(site, x), scale_of(q.conditioning.amax)
    codes = quantize(q.conditioning.spread(site.taps)(rows), scale).astype(np.int64)
    parts = []
    for op in site.ops:
        own = q.weights[op.name]
        around = product(codes, own.codes.astype(np.int64), site.groups) * (scale * own.scale) + own.bias
        side = q.conditioning.side
        parts.append(around + rows[:, side] @ matrix_of(op)[side] if len(side) else around)
    return np.concatenate(parts, axis=1)


def folded_shift(site: Site, c: Conditioning) -> np.ndarray:
    """What the shift takes from each output in float: that of the channels that go through INT8."""
    shift = np.where(np.isin(np.arange(len(c.shift)), c.index), c.shift, 0)
    return np.concatenate(
        [product(np.repeat(shift, site.taps)[None], matrix_of(op, site.groups), site.groups)[0] for op in site.ops]
    )


def bypassed(model: ir.Model, site: Site, c: Conditioning) -> ir.Model:
    """``model``, in which ``site`` was conditioned, in float: codes as good as exact, Q and DQ taken out."""

    def rows(matrix: np.ndarray) -> np.ndarray:
        conditioned = c.spread(site.taps).weight(matrix)
        if c.extra or not len(c.side):
            return conditioned
        wide = np.zeros_like(matrix)  # what is left out is not gathered away: it meets zeros
        wide[c.index] = conditioned
        return wide

    floats = {op.name: weight_of(op, rows(matrix_of(op, site.groups)), site.groups) for op in site.ops}
    for node in list(model.graph):
        if node.op_type != "DequantizeLinear":
            continue
        source = node.inputs[0]
        if source.producer() is None:  # the weight of the one op that reads it
            ((reader, _),) = node.outputs[0].uses()
            name = f"{reader.name}_float"
            source = ir.val(name, const_value=ir.tensor(floats[reader.name], name=name))
            model.graph.register_initializer(source)
        else:
            source = source.producer().inputs[0]
        node.outputs[0].replace_all_uses_with(source)
        model.graph.remove(node, safe=True)
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            model.graph.remove(node, safe=True)
    return checked(model)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def checked(model: ir.Model) -> ir.Model:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model
