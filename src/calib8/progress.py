"""How long work reports back. The library calls ``Progress``; the command line draws it."""

from typing import Protocol


class Progress(Protocol):
    """Receives what long work has done so far. ``total`` is None where nobody can know it yet."""

    def update(self, stage: str, done: float, total: float | None) -> None:
        """``done`` of ``total`` units of ``stage`` are finished; the stage ends when they are equal. 1 means shares."""

    def note(self, message: str) -> None:
        """Something the user should know, and that is no error: a conversion, a reused result."""


class Quiet:
    """The default ``Progress``: says nothing."""

    def update(self, stage: str, done: float, total: float | None) -> None:
        """Ignore the step."""

    def note(self, message: str) -> None:
        """Ignore the message."""
