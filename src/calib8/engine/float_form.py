"""A float model in one precision, as a strongly typed network says it: what an INT8 engine is set against.

It goes through the passes that an INT8 model's remainder goes through, so that the two engines differ in INT8 alone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx_ir as ir

from calib8.engine.options import Precision
from calib8.files import sweep, temporary_folder, unwritable
from calib8.graph.io import load, save
from calib8.passes.fit_tensorrt import fit_tensorrt
from calib8.passes.half import to_half
from calib8.passes.prepare import prepare

HALF = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


@contextmanager
def in_precision(path: Path, precision: Precision, output: Path) -> Iterator[Path]:
    """The model at ``path`` computing in ``precision``, as a file beside ``output`` that is gone afterwards.

    With ``int8`` it is the file itself: the graph says all. Inputs and outputs keep their types. Raises ``ModelError``
    for a model that cannot change its precision, ``SetupError`` if the disk is full.
    """
    if precision == "int8":
        yield path
        return
    model = fit_tensorrt(prepare(load(path)))
    if precision in HALF:
        to_half(model, HALF[precision])
    sweep(output)
    with ExitStack() as held:
        try:
            folder = held.enter_context(temporary_folder(output))
        except OSError as error:
            raise unwritable(output, error) from error
        yield save(model, folder / path.name)
