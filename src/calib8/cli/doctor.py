"""What this machine can do."""

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out


def register(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    add_command(app, doctor)


def doctor(quiet: opt.Quiet = False) -> None:
    """Say what this machine has, what works here and what does not, and what to do about it.

    It takes seconds: each library is loaded in a process of its own, and the INT8 kernels of the CPU are asked for
    products that are known. What is found is told on stderr meanwhile.

    Example: calib8 doctor
    """
    with ConsoleProgress(quiet=quiet) as progress:
        progress.note("looking at the driver, the libraries and the INT8 kernels of this CPU ...")
        found = calib8.doctor(progress=progress)
    from calib8.diagnosis.sections import machine_section, verdicts_section
    from calib8.report.terminal import render

    out.print(render(machine_section(found.facts), verdicts_section(found.verdicts)))
    tell(found)
