"""Which CPU runtime is fastest here."""

from pathlib import Path
from typing import Annotated

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, tune)


def tune(
    model: Annotated[Path, typer.Argument(help="ONNX model.")],
    data: opt.HeldOut,
    tokenizer: opt.Tokenizer = None,
    quiet: opt.Quiet = False,
) -> None:
    """Measure CPU runtimes and forms of a model, and remember the fastest for --runtime auto.

    Of an INT8 model, what is not INT8 may then compute in bf16, where the CPU has it and outputs keep a cosine of 0.995
    to FP32 arithmetic. `verify`, `convert` and `bench` say what they ran in; another --runtime than auto ignores it.

    It is kept in the user's cache ($CALIB8_CACHE, or ~/.cache/calib8) for this model, processor and versions. Run it
    again to redo it. To forget it, delete the file that is named at the end; all such files are in that cache's cpu.

    Example: calib8 tune model.int8.onnx --text held_out.txt
    """
    with ConsoleProgress(quiet=quiet) as progress:
        measured = calib8.tune(model, data, tokenizer=tokenizer, progress=progress)
    for name, rate in sorted(measured.samples_per_second.items(), key=lambda item: -item[1]):
        chosen = "  <- remembered" if name == str(measured.choice) else ""
        out.print(f"{name:32}{rate:10.1f} samples/s{chosen}", markup=False)
    tell(measured)
