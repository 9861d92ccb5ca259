"""What is known of a machine."""

from pydantic import BaseModel, ConfigDict

from calib8.gpu.hardware import Driver
from calib8.runtime.names import Form, RuntimeName


class Library(BaseModel):
    """A Python package: its version and what it told of itself, or the ``problem`` why it cannot be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    version: str | None = None
    details: dict[str, str | None] = {}
    problem: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it could be imported."""
        return self.problem is None


class Processor(BaseModel):
    """The CPU. ``vnni`` and ``amx``: whether it has INT8 dot products and INT8 matrix units; None if unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cores: int
    vnni: bool | None
    amx: bool | None
    memory_total_bytes: int | None
    memory_available_bytes: int | None


class Arithmetic(BaseModel):
    """How a runtime multiplies INT8 on this CPU, as ``runtime.canary`` found.

    ``form`` is the first that is exact for all kinds of ops but rare ones, None if none is; ``inexact`` says what
    is wrong with those before it; ``problem`` why nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: RuntimeName
    form: Form | None = None
    inexact: tuple[str, ...] = ()
    problem: str | None = None


class Facts(BaseModel):
    """Everything that ``calib8 doctor`` looks at; ``libraries`` by the name of the package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calib8: str
    python: str
    system: str
    processor: Processor
    driver: Driver
    libraries: dict[str, Library]
    int8: tuple[Arithmetic, ...]

    def version(self, package: str) -> str | None:
        """The version of a package that can be used; None if it cannot."""
        library = self.libraries[package]
        return library.version if library.usable else None
