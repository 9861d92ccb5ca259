"""What can be chosen, one frozen model per command. Unknown keys are refused; nothing is inferred here."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from calib8.errors import ConfigError

Own = TypeVar("Own", bound="Config")


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys refused, every problem told as ``ConfigError``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
            raise ConfigError(_explain(type(self), error)) from None

    def asked(self) -> dict[str, Any]:
        """What was chosen other than by default, by name."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.get_default()
        }


def first_problem(error: ValidationError) -> str:
    """``engine_bytes: Input should be a valid integer``: the first thing that a file read as JSON has wrong."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'its root'}: {_message(first)}"


def _explain(config: type[BaseModel], error: ValidationError) -> str:
    problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'options'}: {_message(item)}" for item in error.errors())
    unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
    known = f" Known options: {', '.join(config.model_fields)}." if unknown else ""
    return f"{config.__name__} cannot be made: {problems}.{known}"


def _message(problem: ErrorDetails) -> str:
    return problem["msg"].removeprefix("Value error, ")  # what pydantic puts before our own words
