"""The entry point: run a command, turn calib8's errors into one message and an exit code."""

import sys

import typer

from calib8.cli import artefacts, recipe
from calib8.cli.console import err
from calib8.errors import Calib8Error

app = typer.Typer(
    help="Turn a trained ONNX model into an INT8 TensorRT engine, and prove that it is worth shipping.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help reads better than boxes in 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe.register(app)
artefacts.register(app)


def main() -> None:
    """Run ``calib8``. Exit codes: 0 done, 1 a limit was missed, 2 usage or environment, 130 interrupted."""
    try:
        app()
    except Calib8Error as error:
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
