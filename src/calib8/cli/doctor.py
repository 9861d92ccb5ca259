"""What this machine can do."""

import typer

from calib8 import judging
from calib8.cli.console import out
from calib8.cli.results import add_command, tell


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, doctor)


def doctor() -> None:
    """Say what this machine has, what works here and what does not, and what to do about it.

    Example: calib8 doctor
    """
    from calib8.doctor.table import render_diagnosis

    found = judging.doctor()
    out.print(render_diagnosis(found))
    tell(found)
