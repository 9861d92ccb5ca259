"""The entry point: run a command, turn calib8's errors into one message and an exit code."""

import contextlib
import errno
import functools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from calib8.cli import artefacts, bench, caches, doctor, estimate, export, recipe, serve, tune
from calib8.cli.results import answer_in_json, tell_failure
from calib8.cli.stdout import checked_stdout
from calib8.cli.wrong_options import by_option
from calib8.console import err, log, out, visible
from calib8.errors import Calib8Error, SetupError
from calib8.files import REMEDIES, refusal
from calib8.resume import kept_from
from calib8.telemetry import silence


class _WholeSentences(TyperGroup):
    """Lists what commands do in whole sentences, where typer cuts them off at the end of the line; speaks plainly."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, (command.help or "").split("\n\n")[0]) for name, command in commands if command])

    def make_context(self, *given: Any, **options: Any) -> Any:
        with _in_plain_words():
            return super().make_context(*given, **options)

    def invoke(self, ctx: Any) -> Any:
        with _in_plain_words():
            return super().invoke(ctx)


@contextlib.contextmanager
def _in_plain_words() -> Iterator[None]:
    """What typer says of a command line, which quotes it, without what pydantic puts before typer's words."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # its errors have no public base
            error.message = visible(error.message.removeprefix("Value error, "))  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_WholeSentences,
    help="Turn a trained ONNX model into an INT8 TensorRT engine, and prove that it is worth shipping.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help reads better than boxes in 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (recipe, caches, artefacts, export, serve, bench, estimate, tune, doctor):
    module.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"calib8 {version('calib8')}", markup=False)
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@functools.cache
def command() -> Any:
    """All commands with their options, which typer makes of ``app`` anew each time that it is asked: asked once."""
    return typer.main.get_command(app)


#: Exit codes of a crash (EX_SOFTWARE of sysexits.h) and of a reader that went away (128 + SIGPIPE).
CRASHED, UNREAD = 70, 141
#: Those of Ctrl-C and of SIGTERM.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main() -> None:
    """Run ``calib8``.

    Exit codes: 0 done, 1 a limit was missed, 2 usage or environment, 70 a bug in calib8, 130 interrupted, 141 nobody
    reads the output, 143 terminated.
    """
    silence()
    signal.signal(signal.SIGTERM, _terminate)
    answer_in_json(False)  # until the command begins
    with checked_stdout(), warnings.catch_warnings(), contextlib.closing(log):
        warnings.showwarning = _show_warning
        try:
            command()()
        except Calib8Error as raised:
            error = by_option(raised)
            _fail(error, str(error), error.exit_code)
        except MemoryError as error:
            _fail(error, "not enough memory. Free some, or use a smaller model or less data.", Calib8Error.exit_code)
        except SystemExit as ended:
            _explain_end(ended)
            raise
        except OSError as raised:
            refused = refusal(raised) or _refused_somewhere(raised)
            if refused is None:
                _crash(raised)
            _trace()  # of which only the path is known, and not whether calib8 should have seen to it
            _fail(refused, str(refused), refused.exit_code)
        except Exception as error:
            _crash(error)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Libraries warn in words that quote names; where in their source they do is for nobody here."""
    err.print(f"warning: {message}")


def _refused_somewhere(error: OSError) -> Calib8Error | None:
    """An error that tells no path, if it can be none of calib8's own: a full disk, say."""
    if error.errno not in (*REMEDIES, errno.ENOENT, errno.EIO):
        return None
    remedy = REMEDIES.get(error.errno, "Check that the disk, and the folder for temporary files, are there")
    return SetupError(f"the operating system refused to go on: {error.strerror}. {remedy}.")


def _fail(error: Exception, message: str, exit_code: int) -> NoReturn:
    err.print(f"error: {message}", style="red", markup=False)
    tell_failure(type(error).__name__, message, exit_code)
    sys.exit(exit_code)


def _explain_end(ended: SystemExit) -> None:
    """Say what typer leaves unsaid: that it was interrupted, and in JSON what is wrong with the command line."""
    cause = ended.__context__
    if isinstance(cause, BrokenPipeError):  # typer says 1, which would be a missed limit
        ended.code = UNREAD
    elif ended.code in (INTERRUPTED, TERMINATED):
        message = "interrupted; nothing half-written was left behind"
        if folder := kept_from(ended):
            message = f"interrupted; what was done is kept in {folder}: run the same command again to go on"
        err.print(message, style="red", markup=False)
        tell_failure("Interrupted", message, int(ended.code))
    elif explain := getattr(cause, "format_message", None):  # before the command could say whom it answers
        answer_in_json("--json" in sys.argv)
        tell_failure("UsageError", explain(), Calib8Error.exit_code)


def _trace() -> None:
    """Where the error that is handled happened, for those who ask."""
    if os.environ.get("CALIB8_DEBUG"):
        for line in traceback.format_exc().splitlines():
            err.print(line)


def _crash(error: Exception) -> NoReturn:
    """Say that it is not the user's fault, in one line or with the whole traceback."""
    _trace()
    text = " ".join(str(error).split())[:300]
    err.print(f"this is a bug in calib8: {type(error).__name__}: {text}", style="red")
    err.print("Set CALIB8_DEBUG=1 to see where it happened, and please report it.", style="red")
    tell_failure(type(error).__name__, str(error), CRASHED)
    sys.exit(CRASHED)


def _terminate(number: int, frame: object) -> NoReturn:
    """End as after Ctrl-C: workers stopped, what was done kept, nothing half-written left behind."""
    sys.exit(128 + number)
