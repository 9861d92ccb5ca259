"""What stops a run in tests of its going on."""

from calib8.progress import Quiet


class Stopped(Exception):
    """A run was stopped."""


class StopsAt(Quiet):
    """A ``Progress`` that stops the run when so many units of a stage are ``done``."""

    def __init__(self, done: int, end: type[BaseException] = Stopped) -> None:
        self.done, self.end = done, end

    def update(self, stage: str, done: float, total: float | None) -> None:
        """See ``Progress``."""
        if done >= self.done:
            raise self.end
