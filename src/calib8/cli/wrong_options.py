"""An option with an impossible value, told by the name it has on the command line."""

import re

from calib8.errors import Calib8Error, ConfigError

#: Fields of configs whose option has another name.
OPTIONS = {
    ("Int8", "min_sqnr_db"): "--min-sqnr",
    ("Int8", "embedding"): "--int8-embedding",
    ("Migrate", "embedding"): "--int8-embedding",
    ("Build", "targets"): "--target",
    ("Build", "workspace_mib"): "--workspace",
    ("Build", "calibration_cache"): "--cache",
    ("Build", "calibration_batch"): "--batch",
    ("Ray", "address"): "--ray",
    ("Ray", "cpus"): "--ray-cpus",
    ("Serve", "api_key"): "--api-key-file",
    ("Triton", "preferred_batches"): "--preferred-batch",
    ("Triton", "queue_delay_us"): "--queue-delay",
}


def option_of(config: str, field: str) -> str:
    """``--min-cosine`` for ``min_cosine`` of ``Verify``."""
    return OPTIONS.get((config, field), f"--{field.replace('_', '-')}")


def by_option(error: Calib8Error) -> Calib8Error:
    """The same error; if a config could not be made, in the words of whoever typed the options."""
    if not isinstance(error, ConfigError) or not error.problems:
        return error
    told = [
        _in_options(error.config, expected)
        if field is None
        else f"got {option_of(error.config, field)} {_typed(got)}, expected {expected}"
        for field, got, expected in error.problems
    ]
    return ConfigError(f"{'; '.join(told)}.")


def _in_options(config: str, text: str) -> str:
    """``text`` with options in the place of fields, which are the words with an underscore."""
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda word: option_of(config, word[0]), text)


def _typed(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
