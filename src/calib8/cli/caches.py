"""TensorRT's calibration caches, both ways: migrate, export-cache."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.documents import ExportedCache
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out

AlgorithmName = Literal["minmax", "entropy2", "entropy", "legacy"]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    add_command(app, migrate)
    add_command(app, export_cache)


def migrate(
    cache: Annotated[Path, typer.Argument(help="Calibration cache that TensorRT 8 to 10 wrote.")],
    model: Annotated[Path, typer.Argument(help="FP32 ONNX model that was calibrated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="INT8 (Q/DQ) model to write.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--text",
            help="Some samples: a range that they contradict is refused, and what they show beyond FP16 stays FP32.",
        ),
    ] = None,
    config: calib8.Migrate,
    quiet: opt.Quiet = False,
) -> None:
    """Turn a calibration cache into a Q/DQ model for TensorRT 11 and TensorRT-RTX.

    Example: calib8 migrate calibration.cache model.onnx -o model.int8.onnx
    """
    from calib8.report.sections.migration import migration_section
    from calib8.report.terminal import render

    with ConsoleProgress(quiet=quiet) as progress:
        migration = calib8.migrate(cache, model, output, config, data=data, progress=progress)
    out.print(f"{output}: {migration.int8_ops} of {migration.weighted_ops} weighted ops in INT8", markup=False)
    out.print(render(migration_section(migration)))
    tell(migration)


def export_cache(
    source: Annotated[Path, typer.Argument(help="ranges.json, a Q/DQ model (.onnx), or another calibration cache.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibration cache to write.")],
    tensorrt_version: Annotated[
        str | None, typer.Option(help="TensorRT that reads the cache, its first line; default: 101600 (10.16.0).")
    ] = None,
    algorithm: Annotated[
        AlgorithmName | None, typer.Option(help="Calibrator that reads the cache; default: what fits the source.")
    ] = None,
) -> None:
    """Write a calibration cache that TensorRT 8 to 10 reads instead of calibrating.

    Example: calib8 export-cache ranges.json -o calibration.cache --tensorrt-version 10.16.0
    """
    from calib8.caches.cache import CALIBRATORS

    chosen = CALIBRATORS[algorithm] if algorithm is not None else None
    found = calib8.export_cache(source, output, version=tensorrt_version, algorithm=chosen)
    out.print(f"{output}: {found.cache.header}, {len(found.cache.scales)} tensors", markup=False)
    if found.left_out:
        name, reason = next(iter(found.left_out.items()))
        out.print(
            f"{len(found.left_out)} tensors are not in it: {name} {reason}, e.g. Export from the ranges.json that the "
            "model was made with to have them all",
            markup=False,
        )
    header, tensors = found.cache.header, len(found.cache.scales)
    tell(ExportedCache(output=output, header=header, tensors=tensors, left_out=found.left_out))
