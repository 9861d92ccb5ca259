"""Standard output, and what it means when nothing can be written there."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from calib8.errors import SetupError


@contextlib.contextmanager
def checked_stdout() -> Iterator[None]:
    """Within the body ``sys.stdout`` raises ``SetupError`` where a full disk or the like refuses what is written."""
    stream = sys.stdout
    if stream is None:  # closed by the caller, who wants nothing
        yield
        return
    checked: Any = _Checked(stream)
    sys.stdout = checked
    try:
        yield
    finally:
        if sys.stdout is checked:  # typer puts something else there when nobody reads any more
            sys.stdout = stream
        if checked.refused:  # or Python would try again at the end, and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Checked:
    """A text stream whose ``write`` and ``flush`` tell their errors from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.refused = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._refusals():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._refusals():
            self._stream.flush()

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # whoever reads has seen enough, which is no error
            raise
        except OSError as error:
            self.refused = True
            reason = os.strerror(error.errno or errno.EIO)
            raise SetupError(
                f"could not write to standard output: {reason[:1].lower()}{reason[1:]}. Free disk space, or send the "
                "output elsewhere."
            ) from error
