"""``--json`` for every command: its result as one document on stdout, in place of text for people; and ``--log``.

A command prints its text with ``out`` and tells its facts with ``tell``, always; ``add_command`` gives it the option
that lets one of the two through. See docs/json.md. What tells how far it is (``--quiet`` is among its options) can be
asked for a log of that.
"""

import contextlib
import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from typer.core import TyperCommand

from calib8.cli.documents import Failed
from calib8.cli.fields import signed, with_fields
from calib8.console import log, out, visible_json
from calib8.errors import Calib8Error
from calib8.files import finite, require_reachable, require_separate, unwritable

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
LogFile = Annotated[
    Path | None,
    typer.Option("--log", help="Also write here what is told meanwhile, with times. A log that is there goes on."),
]


class _Command(TyperCommand):
    """Calls files by what they are, where typer names the Python type of a list of them."""

    def get_help(self, ctx: Any) -> str:
        kind = "<list[Path]>"
        return str(super().get_help(ctx)).replace(kind, "<path>".ljust(len(kind)))


@dataclass
class _State:
    """Whether this command answers in JSON, and whether it did."""

    asked: bool = False
    told: bool = False


_state = _State()


def add_server(app: typer.Typer, command: Callable[..., None]) -> None:
    """Add ``command``, which has no result, to ``app``."""
    app.command(cls=_Command)(_with_log(with_fields(command)))


def add_command(app: typer.Typer, command: Callable[..., None]) -> None:
    """Add ``command`` to ``app``, with ``--json`` as its last option."""
    command = _with_log(with_fields(command))
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)

    @functools.wraps(command)
    def run(*, as_json: bool = False, **options: Any) -> None:
        answer_in_json(as_json)
        command(**options)
        out.file.flush()  # while what refuses it can still be told

    parameters = [*inspect.signature(command).parameters.values(), option]
    app.command(cls=_Command)(signed(run, parameters))


def _with_log(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with its paths looked at before it begins, and with ``--log`` before ``--quiet``, if it has that."""
    parameters = dict(inspect.signature(command).parameters)
    if "quiet" in parameters:
        quiet = parameters.pop("quiet")
        option = inspect.Parameter("log_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=LogFile)
        parameters |= {"log_file": option, "quiet": quiet}

    @functools.wraps(command)
    def run(*, log_file: Path | None = None, **options: Any) -> None:
        given = list(paths_of([log_file, *options.values()]))
        for path in given:
            require_reachable(path)
        if log_file is not None:
            require_separate([log_file], given[1:])
            _begin_log(log_file)
        command(**options)

    return signed(run, [*parameters.values()])


def _begin_log(path: Path) -> None:
    try:
        log.begin(path)
    except OSError as error:
        raise unwritable(path, error) from error
    log.add(shlex.join(["calib8", *sys.argv[1:]]))


def answer_in_json(asked: bool) -> None:
    """Decide for the command that begins who gets its answer: a program, or people."""
    _state.asked, _state.told = asked, False
    out.quiet = asked


def in_json() -> bool:
    """Whether the command that runs answers in JSON."""
    return _state.asked


def tell(document: BaseModel) -> None:
    """Print ``document``, whose ``format`` says what it is, if JSON was asked for and none was printed yet."""
    if _state.asked and not _state.told:
        content = json.dumps(finite(document.model_dump(mode="json")), indent=2, ensure_ascii=False)
        out.file.write(visible_json(content) + "\n")  # pydantic's own writer refuses a name that is not UTF-8
        _state.told = True


def tell_failure(kind: str, message: str, exit_code: int) -> None:
    """The same for an error, unless the command told its facts before it: a missed limit is among them.

    Where nothing can be written the exit code has to do: this never raises.
    """
    with contextlib.suppress(OSError, Calib8Error):
        tell(Failed(error=kind, message=message, exit_code=exit_code))
        out.file.flush()


def paths_of(given: Iterable[object]) -> Iterator[Path]:
    """Every path among the values of a command's options."""
    for value in given:
        yield from (path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path))
