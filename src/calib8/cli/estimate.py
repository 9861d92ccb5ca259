"""How fast engines would be on GPUs that are not here."""

from pathlib import Path
from typing import Annotated

import typer

import calib8
from calib8.cli.results import add_command, tell
from calib8.console import out


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, estimate)


def estimate(
    model: Annotated[Path, typer.Argument(help="ONNX model in FP32.")],
    *,
    config: calib8.Estimate,
    groups: Annotated[bool, typer.Option("--groups", help="Show what groups of kernels take, too.")] = False,
) -> None:
    """Estimate, without a GPU, what engines take in FP16, INT8 and FP8: a model's estimate, nothing is measured.

    Example: calib8 estimate model.onnx --gpus T4,L4 --shapes input_ids:1x32:8x128:64x384
    """
    from calib8.report.sections.estimate import estimate_section
    from calib8.report.terminal import render

    report = calib8.estimate(model, config)
    out.print(render(estimate_section(report, groups=groups)))
    tell(report)
