"""How fast models and engines are."""

from pathlib import Path
from typing import Annotated

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.fields import Only
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out
from calib8.files import require_separate


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, bench)


def bench(
    artefacts: Annotated[list[Path], typer.Argument(help="ONNX models and engines; ratios are to the first.")],
    data: opt.HeldOut,
    *,
    config: Annotated[calib8.Bench, Only("batches", "lengths", "seconds", "profile", "monitor")],
    output: opt.Report = None,
    tokenizer: opt.Tokenizer = None,
    runtime: opt.Runtime,
    device: opt.Device = None,
    quiet: opt.Quiet = False,
) -> None:
    """Measure latency and throughput by turns, from arrays in host memory to arrays in host memory.

    Example: calib8 bench model.onnx model.int8.onnx --data held_out.txt --batches 1,8

    Where INT8's time goes: calib8 bench model-fp16.engine model-int8.engine --data held_out.txt --profile
    """
    from calib8.report import contents
    from calib8.report.page.html import write_page
    from calib8.report.terminal import render

    if output is not None:
        require_separate([output, output.with_suffix(".html")], [data, *artefacts])
    with ConsoleProgress(quiet=quiet) as progress:
        report = calib8.bench(artefacts, data, config, tokenizer=tokenizer, runtime=runtime, progress=progress)
    document = contents.bench(report)
    if output is not None:
        report.save(output)
        write_page(output.with_suffix(".html"), document)
    out.print(render(*document.sections))
    tell(report)
