"""Formats of other servers: export."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.documents import ExportedTriton
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, export)


def export(
    server: Annotated[Literal["triton"], typer.Argument(help="Who will serve it: triton.", metavar="server")],
    artefact: Annotated[Path, typer.Argument(help="TensorRT engine, or ONNX model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model repository.")],
    *,
    tokenizer: opt.Tokenizer = None,
    config: calib8.Triton,
    quiet: opt.Quiet = False,
) -> None:
    """Write a model repository for Triton Inference Server: text in, vectors out.

    With a tokenizer.json beside it, a text encoder becomes an ensemble of tokeniser, model and pooling; any other model
    is exported alone.

    Example: calib8 export triton build/mpnet/model.int8.onnx -o repository
    """
    with ConsoleProgress(quiet=quiet) as progress:
        made = calib8.export_triton(artefact, output, config, tokenizer=tokenizer, progress=progress)
    takes = f"text in, {made.width} numbers out" if made.width is not None else "arrays in, arrays out"
    out.print(f"{output}: {made.name} ({takes}), batches of up to {max(made.max_batch, 1)}", markup=False)
    out.print(f"needs {made.needs}", markup=False)
    out.print(f"tritonserver --model-repository={output.resolve()}", markup=False)
    tell(ExportedTriton(**asdict(made)))
