"""What can be chosen about an estimate."""

from typing import Annotated, Any

from pydantic import field_validator

from calib8.config import Config, Option
from calib8.cost.gpus import GPUS, gpu_named
from calib8.engine.config import read_shapes
from calib8.engine.profiles import Profile


def _proposals(begun: str) -> list[str]:
    *named, last = begun.split(",")
    fit = [gpu.name for gpu in GPUS if gpu.name.lower().startswith(last.lower()) and gpu.name not in named]
    return [",".join([*named, name]) for name in fit]


class Estimate(Config):
    """Of which GPUs and shapes to estimate the time. Raises ``ConfigError`` for a GPU of which nothing is known."""

    gpus: Annotated[tuple[str, ...], Option(metavar="T4,L4,H200", text=True, proposals=_proposals)] = ()
    """GPUs by name. Default: all that are known.

    Text such as ``"T4,L4"``, or names.
    """
    shapes: Annotated[tuple[Profile, ...], Option(metavar="input_ids:1x32:8x128:64x384")] = ()
    """Input, then three shapes to estimate. The same input again: three more.

    As ``Build`` takes them; three that are the same count once.
    """

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus(cls, value: Any) -> tuple[str, ...]:
        try:
            names = value.split(",") if isinstance(value, str) else list(value or ())
            found = {name: gpu_named(name) for name in names if name.strip()}
        except (AttributeError, TypeError):
            raise ValueError("expected text such as 'T4,L4', or a list of such names") from None
        if None in found.values():
            raise ValueError(f"names among {', '.join(gpu.name for gpu in GPUS)}")
        return tuple(dict.fromkeys(gpu.name for gpu in found.values() if gpu is not None))

    @field_validator("shapes", mode="before")
    @classmethod
    def _shapes(cls, value: Any) -> tuple[Any, ...]:
        return read_shapes(value)
