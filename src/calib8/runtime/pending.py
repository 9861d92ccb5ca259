"""A run that was started and is waited for later."""

from typing import Any, Protocol


class Pending(Protocol):
    """What ``submit`` answers. Any thread may wait for it, any number of times."""

    @property
    def done(self) -> bool:
        """Would ``result`` answer at once?"""

    def wait(self) -> None:
        """Wait until it is over, well or not."""

    def result(self) -> dict[str, Any]:
        """Its outputs by name. Raises ``SetupError`` if it failed."""


class Finished:
    """A run that was over when it was submitted, as on the CPU."""

    done = True

    def __init__(self, outputs: dict[str, Any]) -> None:
        self._outputs = outputs

    def wait(self) -> None:
        """Nothing to wait for."""

    def result(self) -> dict[str, Any]:
        """Its outputs by name."""
        return self._outputs
