"""What can be chosen, one frozen model per command. Unknown keys are refused; nothing is inferred here."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.errors import ConfigError


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys refused, every problem told as ``ConfigError``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None


def first_problem(error: ValidationError) -> str:
    """``engine_bytes: Input should be a valid integer``: the first thing that a file read as JSON has wrong."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'its root'}: {first['msg']}"


def _explain(config: type[BaseModel], error: ValidationError) -> str:
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'options'}: {item['msg']}" for item in error.errors()
    )
    return f"{config.__name__} cannot be made: {problems}. Known options: {', '.join(config.model_fields)}."
