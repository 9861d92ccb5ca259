"""The form of a model that a builder is to parse, where that is not the file itself.

A float model gets its precision, as a strongly typed network says it: what an INT8 engine is set against. It goes
through the passes that an INT8 model's remainder goes through, so that the two engines differ in INT8 alone. An INT8
model with convolutions gets the scales and types of which the full TensorRT makes good kernels, one with attention the
order of tokens that it would choose itself if Q did not stand in its way, and norms that store FP16.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx_ir as ir

from calib8.engine.family import FamilyName
from calib8.engine.options import QUANTISED, EnginePrecision
from calib8.errors import ModelError
from calib8.files import sweep, temporary_folder, unwritable
from calib8.graph.io import load, save
from calib8.passes.codes_to_codes import codes_to_codes
from calib8.passes.conv_scales import takes_conv_scales, to_conv_scales
from calib8.passes.fit_tensorrt import fit_tensorrt
from calib8.passes.float_grouped import float_grouped
from calib8.passes.half import to_half
from calib8.passes.half_before_q import half_before_q
from calib8.passes.own_kernel import own_kernel
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import prepare
from calib8.passes.reach import mark_reach
from calib8.passes.sequence_first import sequence_first

#: What else the full TensorRT makes better kernels of, in order: ``model -> whether it was rewritten``.
FOR_TENSORRT: tuple[Callable[[ir.Model], bool], ...] = (
    sequence_first,
    half_before_q,
    float_grouped,
    codes_to_codes,
    own_kernel,
)
HALF = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


@contextmanager
def to_parse(
    path: Path, precision: EnginePrecision, family: FamilyName, output: Path, unheld: Collection[str] | None = None
) -> Iterator[Path]:
    """The model at ``path`` computing in ``precision``, in the form for ``family``; a file that is gone afterwards.

    It lies beside ``output``. Where the graph says all, it is the file itself. Inputs and outputs keep their types.
    ``unheld``: the tensors of a float model that FP16 does not hold; None if nobody looked.

    Raises ``ModelError`` for a model that cannot change its precision, ``SetupError`` if the disk is full.
    """
    model = _quantised_form(path, family) if precision in QUANTISED else _float_form(path, precision, unheld)
    if model is None:
        yield path
        return
    sweep(output)
    with ExitStack() as held:
        try:
            folder = held.enter_context(temporary_folder(output))
        except OSError as error:
            raise unwritable(output, error) from error
        yield save(model, folder / path.name)


def _quantised_form(path: Path, family: FamilyName) -> ir.Model | None:
    """None for TensorRT-RTX, which plans no better by either, and where there are neither encoders nor convolutions."""
    if family == "rtx":
        return None
    model = load(path)
    rewritten = [rewrite(model) for rewrite in FOR_TENSORRT]
    if takes_conv_scales(model):
        return to_conv_scales(model)
    return model if any(rewritten) else None


def _float_form(path: Path, precision: EnginePrecision, unheld: Collection[str] | None) -> ir.Model:
    model = plain_convolutions(prepare(load(path)))
    if unheld is not None:
        mark_reach(model, unheld)
    fit_tensorrt(model)
    _require_convertible(model, path, precision)
    return to_half(model, HALF[precision]) if precision in HALF else model


def _require_convertible(model: ir.Model, path: Path, precision: EnginePrecision) -> None:
    """What ``prepare`` left in half precision keeps it: an engine in part FP16 is none to call FP32."""
    values = [value for node in model.graph.all_nodes() for value in node.outputs if not value.is_graph_output()]
    values += model.graph.initializers.values()
    kept = next((v for v in values if v.dtype in HALF.values() and v.dtype != HALF.get(precision)), None)
    if kept is not None and kept.dtype is not None:
        raise ModelError(
            f"{path} has {kept.name!r} in {kept.dtype.name.lower()}, so it would not compute in {precision} alone. "
            "Export the model in FP32, or ask for the precision that it has."
        )
