"""An option with an impossible value, told by the name it has on the command line."""

import calib8
from calib8.cli.fields import in_options, option_of
from calib8.errors import Calib8Error, ConfigError


def by_option(error: Calib8Error) -> Calib8Error:
    """The same error; if a config could not be made, in the words of whoever typed the options."""
    if not isinstance(error, ConfigError) or not error.problems:
        return error
    config = getattr(calib8, error.config)
    told = [
        in_options(config, expected)
        if field is None
        else f"got {option_of(config, field)} {_typed(got)}, expected {expected}"
        for field, got, expected in error.problems
    ]
    return ConfigError(f"{'; '.join(told)}.")


def _typed(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
