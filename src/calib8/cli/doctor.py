"""What this machine can do."""

from typing import Annotated

import typer

from calib8 import judging
from calib8.cli.console import out


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what this machine has, what works here and what does not, and what to do about it.

    Example: calib8 doctor
    """
    from calib8.doctor.table import render_diagnosis

    found = judging.doctor()
    if as_json:
        out.print(found.model_dump_json(indent=2), markup=False)
    else:
        out.print(render_diagnosis(found))
