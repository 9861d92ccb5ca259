"""Every error that calib8 raises on purpose.

    Calib8Error                    exit code 2
    ├── InputError                 something that the caller handed over is wrong
    │   ├── ModelError             an ONNX model: missing, damaged, or of a shape we cannot quantise
    │   ├── DataError              calibration or inference arrays
    │   ├── CacheError             a TensorRT calibration cache
    │   ├── RangesError            a ranges file that does not fit the model
    │   ├── ProfileError           an optimisation profile or a build target
    │   └── ConfigError            an option with an unknown name or an impossible value
    ├── SetupError                 this machine lacks something: a package, a GPU, disk space, the network
    │   └── FetchError             a model could not be fetched, or is not the pinned one
    ├── BuildError                 TensorRT refused to parse or build
    └── LimitMissed                exit code 1: the work was done and the result is not good enough
        ├── PlanMismatch           the plan runs fewer ops in INT8 (or FP8) than the model asks for
        └── AccuracyMissed         a verification limit was missed

A message says what was got, what was expected, and what to do about it.
"""

from collections.abc import Sequence
from importlib.metadata import distribution
from typing import Any, ClassVar


class Calib8Error(Exception):
    """Base of all calib8 errors; ``exit_code`` is what the command line returns for it."""

    exit_code: ClassVar[int] = 2


class InputError(Calib8Error):
    """Something that the caller handed over is wrong."""


class ModelError(InputError):
    """An ONNX model is missing, damaged, or of a shape that calib8 cannot work with."""


class DataError(InputError):
    """Calibration or inference arrays do not fit the model or are unusable."""


class CacheError(InputError):
    """A TensorRT calibration cache is foreign or corrupt."""


class RangesError(InputError):
    """A ranges file is damaged or does not fit the model."""


class ProfileError(InputError):
    """An optimisation profile or a build target is impossible."""


class ConfigError(InputError):
    """An option has an unknown name or an impossible value.

    ``config`` is the name of the config that could not be made, ``problems`` what was wrong in it: the option (None if
    the options do not go together), what was got, and what was expected.
    """

    def __init__(self, message: str, *, config: str = "", problems: Sequence[tuple[str | None, Any, str]] = ()) -> None:
        super().__init__(message)
        self.config, self.problems = config, tuple(problems)


class SetupError(Calib8Error):
    """This machine lacks something: a package, a GPU, disk space, the network."""


class FetchError(SetupError):
    """A model could not be fetched, or what came is not what was pinned."""


class BuildError(Calib8Error):
    """TensorRT refused to parse the model or to build the engine."""


class LimitMissed(Calib8Error):
    """The work was done and the result is not good enough. ``report`` is the ``Report`` of a conversion."""

    exit_code: ClassVar[int] = 1
    report: Any = None


class PlanMismatch(LimitMissed):
    """The engine's plan runs fewer ops in INT8 (or FP8) than the model asks for.

    ``failed`` holds the ``PlanCheck`` of every target that missed, ``built`` the ``BuiltEngine`` of every target, those
    that missed included.
    """

    def __init__(self, message: str, *, failed: Sequence[Any] = (), built: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.failed, self.built = tuple(failed), tuple(built)


class AccuracyMissed(LimitMissed):
    """A verification limit was missed."""


def install(extra: str = "") -> str:
    """The command that adds an ``extra``, or calib8 itself, in the way in which this calib8 came here.

    From a package index by name; from a folder, as long as calib8 is on none, in that folder, wherever it is now.
    """
    wanted = f"[{extra}]" if extra else ""
    if distribution("calib8").read_text("direct_url.json") is None:  # PEP 610: there if it came from no index
        return f"pip install 'calib8{wanted}'"
    return f"pip install '.{wanted}' in calib8's source folder"
