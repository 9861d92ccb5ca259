"""GELU as one op, which TensorRT fuses best, and by tanh where the model's own output hardly notices."""

import onnx_ir as ir

from calib8.passes.gelu import gelu_ops
from calib8.progress import Progress
from calib8.quantization.probe import Probe
from calib8.quantization.quant_plan import Gelu

#: The share of what an op in INT8 may cost that tanh in all GELUs together may: it spares less time than INT8 does.
SHARE = 0.1


def with_gelu_ops(model: ir.Model, probe: Probe, max_damage: float, progress: Progress) -> tuple[ir.Model, Gelu | None]:
    """A clone of the prepared ``model`` with a Gelu op for each GELU, and what became of them.

    By tanh if that takes no more than ``SHARE`` of ``max_damage`` from the score of the outputs, in float; exact if
    it does. The model itself and None if it has no GELU, or none that can become one op.
    """
    changed = model.clone()
    if not (ops := gelu_ops(changed, "tanh")):
        return model, None
    cosine = min(1.0, probe.score(changed))
    exact = 1 - cosine > SHARE * max_damage
    if exact:
        changed = model.clone()
        gelu_ops(changed, "none")
    gelu = Gelu(ops=ops, approximate="none" if exact else "tanh", cosine=cosine, score=probe.told)
    progress.note(gelu.describe())
    return changed, gelu
