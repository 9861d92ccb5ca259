"""How fast models and engines are."""

from pathlib import Path
from typing import Annotated

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out
from calib8.errors import ConfigError
from calib8.files import require_separate


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, bench)


def bench(
    artefacts: Annotated[list[Path], typer.Argument(help="ONNX models and engines; ratios are to the first.")],
    data: Annotated[Path, typer.Option("--data", "--text", help="Arrays, or a .txt file of sentences.")],
    batches: Annotated[str, typer.Option(help="Batch sizes.", metavar="1,8,32")] = "1,8",
    lengths: Annotated[
        str, typer.Option(help="Sequence lengths; default: that of the median sample.", metavar="16,128")
    ] = "",
    seconds: Annotated[float, typer.Option(help="Time for each artefact and shape.")] = 3.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the report: JSON, and HTML beside it.")
    ] = None,
    tokenizer: opt.Tokenizer = None,
    runtime: opt.Runtime = "auto",
    device: opt.Device = None,
    profile: opt.Profile = False,
    monitor: opt.MonitorInReport = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure latency and throughput by turns, from arrays in host memory to arrays in host memory.

    Example: calib8 bench model.onnx model.int8.onnx --data held_out.txt --batches 1,8

    Where INT8's time goes: calib8 bench model-fp16.engine model-int8.engine --data held_out.txt --profile
    """
    from calib8.report.bench import render_bench
    from calib8.report.page.content import bench_page
    from calib8.report.page.html import write_page

    if output is not None:
        require_separate([output, output.with_suffix(".html")], [data, *artefacts])
    with ConsoleProgress(quiet=quiet) as progress:
        config = calib8.Bench(
            batches=_numbers("--batches", batches),
            lengths=_numbers("--lengths", lengths),
            seconds=seconds,
            profile=profile,
            monitor=monitor,
        )
        report = calib8.bench(artefacts, data, config, tokenizer=tokenizer, runtime=runtime, progress=progress)
    if output is not None:
        report.save(output)
        write_page(output.with_suffix(".html"), bench_page(report))
    out.print(render_bench(report))
    tell(report)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """``"1,8"`` -> ``(1, 8)``."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected whole numbers such as 1,8,32.") from None
