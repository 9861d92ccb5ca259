"""What of a model TensorRT has units and kernels for: which targets, and which of its quantised ops."""

from collections.abc import Sequence

import onnx_ir as ir

from calib8.engine.config import Build
from calib8.engine.plan_check import NO_INT8_CONV, TURING
from calib8.engine.quantized import QuantizedOp, quantized_ops
from calib8.engine.targets import describe, multiplies
from calib8.errors import ProfileError
from calib8.precision import Grid
from calib8.progress import Progress

#: Names shown of nodes that are alike.
SHOWN = 3


def able(targets: tuple[str, ...], config: Build, grid: Grid, progress: Progress) -> tuple[str, ...]:
    """Those of ``targets``, a builder's for ``config``, that have units for ``grid``.

    Raises ``ProfileError`` for one without them that was asked for, or is all that can be had.
    """
    if not grid.capability:
        return targets
    told = grid.precision.upper()
    ampere = config.hardware_compatibility == "ampere+"
    lacking = [target for target in targets if ampere or not multiplies(target, grid)]
    fit = tuple(target for target in targets if target not in lacking)
    if lacking and (config.targets is not None or not fit):
        meant = "everything from Ampere on" if ampere else ", ".join(map(describe, lacking))
        raise ProfileError(
            f"no {told} engine for {meant}: GPUs multiply {told} from {describe(f'sm{grid.capability}')} on. Build for "
            "these alone, or quantise to INT8 (--precision int8)."
        )
    if lacking:
        progress.note(f"no engine for {', '.join(map(describe, lacking))}, which cannot multiply {told}")
    return fit


def able_in_fp32(targets: tuple[str, ...], products: Sequence[str], progress: Progress) -> tuple[str, ...]:
    """The targets for which TensorRT-RTX multiplies matrices in FP32, if the nodes ``products`` do."""
    if TURING not in targets or not products:
        return targets
    more = ", …" if len(products) > SHOWN else ""
    progress.note(
        f"no engine for {describe(TURING)}: TensorRT-RTX has no FP32 GEMM for it, and {len(products)} stay FP32 "
        f"({', '.join(products[:SHOWN])}{more}): by --remainder fp32 or --precision fp32, since sizes are computed "
        'from their results, or since FP16 does not hold their numbers: see "beyond" in the ranges file. Scale those '
        "down to have one"
    )
    return tuple(target for target in targets if target != TURING)


def able_to_convolve(targets: tuple[str, ...], ops: Sequence[QuantizedOp], progress: Progress) -> tuple[str, ...]:
    """The targets for which TensorRT-RTX can run all ``ops`` in INT8."""
    if TURING not in targets or not any(op.kind == "Conv" for op in ops):
        return targets
    progress.note(
        f"no engine for {describe(TURING)}: {NO_INT8_CONV}. To have one, leave the convolutions in float (--exclude), "
        f"and ask for it (--target {TURING})"
    )
    return tuple(target for target in targets if target != TURING)


def with_kernels(ops: Sequence[QuantizedOp], form: ir.Model, progress: Progress) -> Sequence[QuantizedOp]:
    """Those of a model's quantised ``ops`` whose weights are codes in the ``form`` that a builder parses, too."""
    weightless = {op.name for op in quantized_ops(form) if not op.weight}
    left = [op.name for op in ops if op.weight and op.name in weightless]
    if left:
        progress.note(
            f"{len(left)} of {len(ops)} quantised ops are FP16 in the engine, as {left[0]!r}: a grouped convolution "
            "whose result is no codes at once has no INT8 kernel in TensorRT. Leave them in float (--exclude, or "
            "--optimize latency) to spare them Q and DQ"
        )
    return [op for op in ops if op.name not in left]
