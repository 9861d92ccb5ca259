"""Options that are fields of configs: name, type, default and help are the field's; limits are the config's to tell.

A command takes a config as a parameter, and has an option for each of its fields:

    def migrate(model: Model, *, config: calib8.Migrate) -> None: ...
    def quantize(model: Model, *, config: Annotated[calib8.Int8, Only("treatment", "min_sqnr_db")]) -> None: ...
    def verify(model: Model, *, pairs: Annotated[Path | None, Of(calib8.Convert, "pairs")]) -> None: ...
"""

import functools
import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from calib8.config import Config, Option

#: What typer reads by itself, beside choices.
BY_TYPER = (bool, int, float, str, Path)


class Only:
    """Some fields of a config, in the order of the help page; ``base`` is a config whose values are the defaults."""

    def __init__(self, *fields: str, base: Config | None = None) -> None:
        self.fields, self.base = fields, base


@dataclass(frozen=True)
class Of:
    """One field, for a command that makes no config of it. The parameter's own default, if it has one, goes first."""

    config: type[Config]
    field: str


@dataclass(frozen=True)
class _Made:
    """A config that a command takes, and the fields of it that are options."""

    config: type[Config]
    fields: tuple[str, ...]

    def of(self, options: dict[str, Any]) -> Config:
        """The config of what was chosen; takes its own out of ``options``. Raises ``ConfigError``."""
        chosen = {name: options.pop(name) for name in self.fields}
        return self.config(**{name: value for name, value in chosen.items() if value not in (None, [])})

    def parameters(self, base: Config) -> list[inspect.Parameter]:
        """Its options, with the values of ``base`` as defaults."""
        return [_parameter(self.config, name, name, _default(base, name)) for name in self.fields]


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with options in the place of the configs that it takes."""
    made: dict[str, _Made] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind, *marks = (
            get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else [parameter.annotation]
        )
        if inspect.isclass(kind) and issubclass(kind, Config):
            only = next((mark for mark in marks if isinstance(mark, Only)), Only(*kind.model_fields))
            made[parameter.name] = _Made(kind, only.fields)
            parameters += made[parameter.name].parameters(only.base or kind())
        elif of := next((mark for mark in marks if isinstance(mark, Of)), None):
            own = parameter.default
            default = of.config.model_fields[of.field].default if own is inspect.Parameter.empty else own
            parameters.append(_parameter(of.config, of.field, parameter.name, default))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**options: Any) -> None:
        command(**{name: one.of(options) for name, one in made.items()}, **options)

    return signed(run, parameters)


def signed(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """``command``, which says from now on that it has ``parameters``."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def option_of(config: type[Config], field: str) -> str:
    """``--min-cosine`` for ``min_cosine`` of ``Verify``."""
    return (_written(config, field).name or _plain(field)).partition("/")[0]


def help_of(config: type[Config], field: str) -> str:
    """The first paragraph of what is said of a field."""
    said = (config.model_fields[field].description or "").split("\n\n")[0]
    return in_options(config, " ".join(said.split()))


def in_options(config: type[Config], text: str) -> str:
    """``text`` with options in the place of fields, which are in double backticks or have an underscore."""
    words = re.compile(r"``(.+?)``|\b([a-z]+(?:_[a-z]+)+)\b")
    return words.sub(
        lambda at: option_of(config, name) if (name := at[1] or at[2]) in config.model_fields else name, text
    )


def _default(base: Config, field: str) -> Any:
    """What ``base`` has; None of a field that the config fills in by others, if nobody has chosen it."""
    unchosen = field not in base.model_fields_set and type(base).model_fields[field].default is None
    return None if unchosen else getattr(base, field)


def _parameter(config: type[Config], field: str, name: str, default: Any) -> inspect.Parameter:
    """The option of a field, for a command's parameter of that ``name``."""
    written = _written(config, field)
    kind = str if written.text else _kind(config.model_fields[field].annotation)
    both = f"/--no-{field.replace('_', '-')}" if kind is bool and default is not False else ""
    option = typer.Option(
        written.name or _plain(field) + both,
        help=help_of(config, field),
        metavar=written.metavar,
        autocompletion=written.proposals,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=_typed(kind, default), annotation=Annotated[kind | None, option]
    )


def _kind(annotation: Any) -> Any:
    """How typer reads a field: by its own type, several by a list, and what is of many types by a text."""
    if get_origin(annotation) is tuple:
        return list[_kind(get_args(annotation)[0])]  # type: ignore[misc]
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _kind(kinds[0]) if len(kinds) == 1 else str
    return annotation if annotation in BY_TYPER or get_origin(annotation) is Literal else str


def _typed(kind: Any, default: Any) -> Any:
    """A default as it would be typed; None where there is nothing to type."""
    if kind is str and isinstance(default, tuple):
        default = ",".join(map(str, default))
    if default in (None, (), ""):
        return None
    return str(default) if kind is str else default


def _plain(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _written(config: type[Config], field: str) -> Option:
    return next((mark for mark in config.model_fields[field].metadata if isinstance(mark, Option)), Option())
