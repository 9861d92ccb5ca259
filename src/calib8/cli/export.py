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
    tokenizer: opt.Tokenizer = None,
    name: Annotated[str | None, typer.Option(help="Name that clients ask for; default: the file's.")] = None,
    device: Annotated[
        Literal["cpu", "gpu"] | None, typer.Option(help="Where an ONNX model runs; default: cpu.")
    ] = None,
    vnni: Annotated[
        bool | None,
        typer.Option("--vnni/--no-vnni", help="Whether the serving CPU has VNNI (INT8 ONNX model). Default: as here."),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=0, help="Largest batch, 0 for none. Default: the engine's; 64 of an ONNX model.")
    ] = None,
    preferred_batch: Annotated[
        list[int] | None,
        typer.Option(help="Batch size that is sent at once when there is one; may be repeated.", metavar="N"),
    ] = None,
    queue_delay: Annotated[int, typer.Option(min=0, help="How long a request waits for others, in us.")] = 500,
    instances: Annotated[int, typer.Option(min=1, help="Runs under way at a time, on each GPU or on the CPU.")] = 1,
    pad_to: Annotated[int, typer.Option(min=1, help="Pad token sequences to a multiple of this.")] = 16,
    quiet: opt.Quiet = False,
) -> None:
    """Write a model repository for Triton Inference Server: text in, vectors out.

    With a tokenizer.json beside it, a text encoder becomes an ensemble of tokeniser, model and pooling; any other model
    is exported alone.

    Example: calib8 export triton build/mpnet/model.int8.onnx -o repository
    """
    with ConsoleProgress(quiet=quiet) as progress:
        config = calib8.Triton(
            name=name,
            device=device,
            vnni=vnni,
            max_batch=max_batch,
            preferred_batches=tuple(preferred_batch) if preferred_batch else None,
            queue_delay_us=queue_delay,
            instances=instances,
            pad_to=pad_to,
        )
        made = calib8.export_triton(artefact, output, config, tokenizer=tokenizer, progress=progress)
    takes = f"text in, {made.width} numbers out" if made.width is not None else "arrays in, arrays out"
    out.print(f"{output}: {made.name} ({takes}), batches of up to {max(made.max_batch, 1)}", markup=False)
    out.print(f"needs {made.needs}", markup=False)
    out.print(f"tritonserver --model-repository={output.resolve()}", markup=False)
    tell(ExportedTriton(**asdict(made)))
