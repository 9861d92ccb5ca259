"""What every config is, and how the command line writes its fields. Unknown keys are refused; nothing is inferred."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from calib8.errors import ConfigError

Own = TypeVar("Own", bound="Config")


@dataclass(frozen=True)
class Option:
    """How the command line writes a field, where that is not ``--field-name VALUE``: metadata of its annotation.

    name: ``--name``, or ``--this/--that`` for True and False. metavar: stands for the value in help pages.
    text: the value is one text, which the field's validator reads. proposals: what the shell may propose for a
    beginning.
    """

    name: str | None = None
    metavar: str | None = None
    text: bool = False
    proposals: Callable[[str], list[str]] | None = None


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys refused, every problem told as ``ConfigError``.

    What a field is for stands in the docstring below it; its first paragraph is the help of the option, in which
    double backticks around a field stand for that field's option.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def of(cls: type[Own], given: Own | None) -> Own:
        """What a caller gave as config: itself, or the defaults for None. Raises ``ConfigError`` for anything else."""
        if given is None:
            return cls()
        if not isinstance(given, cls):
            raise ConfigError(
                f"got options of type {type(given).__name__}, expected calib8.{cls.__name__}(…) with the options "
                f"{', '.join(cls.model_fields)}."
            )
        return given

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(type(self), error) from None

    def asked(self) -> dict[str, Any]:
        """What was chosen other than by default, by name."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name in self.model_fields_set and getattr(self, name) != field.get_default()
        }


def first_problem(error: ValidationError) -> str:
    """``engine_bytes: Input should be a valid integer``: the first thing that a file read as JSON has wrong."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'its root'}: {_message(first)}"


def _explained(config: type[BaseModel], error: ValidationError) -> ConfigError:
    found: dict[str | None, tuple[Any, str]] = {}
    for item in error.errors():  # of what is said of one option the first says it best
        name = str(item["loc"][0]) if item["loc"] else None
        found.setdefault(name, (item["input"], _expected(item)))
    problems = [(name, got, expected) for name, (got, expected) in found.items()]
    told = (
        expected if name is None else f"got {name}={got!r}, expected {expected}" for name, got, expected in problems
    )
    unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
    known = f" Known options: {', '.join(config.model_fields)}." if unknown else ""
    message = f"calib8.{config.__name__}: {'; '.join(told)}.{known}"
    return ConfigError(message, config=config.__name__, problems=problems)


def _expected(problem: ErrorDetails) -> str:
    """What would have been right, in our words where pydantic's are those of its types."""
    words = {
        "greater_than": "more than {gt}",
        "greater_than_equal": "{ge} or more",
        "less_than": "less than {lt}",
        "less_than_equal": "{le} or less",
        "finite_number": "a finite number",
        "too_short": "at least {min_length}",
        "string_too_short": "some text",
        "literal_error": "{expected}",
        "extra_forbidden": "no such option",
    }
    if problem["type"] in words:
        limits = {
            name: f"{limit:.12g}" if isinstance(limit, float) else limit
            for name, limit in problem.get("ctx", {}).items()
        }
        return words[problem["type"]].format(**limits)
    return _message(problem).removeprefix("Input should be ").removeprefix("expected ")


def _message(problem: ErrorDetails) -> str:
    return problem["msg"].removeprefix("Value error, ")  # what pydantic puts before our own words
