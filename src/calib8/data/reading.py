"""What is read once, from its beginning to its end: files, pipes, terminals.

Most of what calib8 takes must be a file, see ``files.require_file``: it is read again, mapped, or told by its name.
"""

import io
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from calib8.errors import DataError, InputError

#: The path that stands for standard input.
STDIN = Path("-")
BLOCK = 1 << 16
#: Bytes of one line; what has no ends of lines is no text.
LONGEST = 1 << 26
#: Seconds without input after which those who wait for more get on with what came.
PAUSE = 0.1
#: Seconds until it is told that nobody writes into a pipe.
PATIENCE = 2.0
_MARK = b"\xef\xbb\xbf"


def name_of(path: Path) -> str:
    """``path`` as errors call it."""
    return "standard input" if path == STDIN else str(path)


def require_readable(path: Path, what: str) -> None:
    """Raise ``InputError`` that names its role where nothing can be read at ``path``."""
    if path == STDIN:
        if sys.stdin is None:
            raise InputError(f"standard input is closed, expected a {what}. Name a file.")
    elif path.is_dir():
        raise InputError(f"{path} is a folder, expected a file: {what}. Name the file in it.")
    elif not path.exists():
        raise InputError(f"{what} not found: expected a file at {path}, found nothing there. Check the path.")


@contextmanager
def opened(path: Path, what: str, note: Callable[[str], None] = lambda _: None) -> Iterator[IO[bytes]]:
    """A file, a pipe or what else can be read, without a buffer; ``-`` is standard input.

    Waits for whoever is to write into a pipe; ``note`` is told if that takes long. Raises ``InputError`` where nothing
    can be read.
    """
    require_readable(path, what)
    try:
        if path == STDIN:
            stream = io.FileIO(sys.stdin.fileno(), closefd=False)
        else:
            stream = io.FileIO(path, opener=_without_waiting)
    except OSError as error:
        raise _unreadable(name_of(path), error) from error
    with stream:
        if path != STDIN and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode) and _pauses(stream, PATIENCE):
            note(f"waiting for {path}, a pipe into which nothing was written yet")
            select.select([stream], [], [])
        yield stream


def read_whole(path: Path, what: str, note: Callable[[str], None] = lambda _: None) -> bytes:
    """All that is in a file or comes out of a pipe. Raises ``InputError`` as ``opened`` does."""
    with opened(path, what, note) as stream:
        return b"".join(_blocks(stream, name_of(path)))


def lines(stream: IO[bytes], name: str) -> Iterator[str | None]:
    """Each line of UTF-8 text, stripped, as it comes; None where nothing more came for ``PAUSE`` seconds.

    A blank line is an empty text; what follows the last line feed is a line if it is anything. ``name`` says in errors
    where the text is from. Raises ``DataError`` for what is no UTF-8, or a line of more than ``LONGEST`` bytes.
    """
    number, begun = 1, bytearray()
    blocks = _blocks(stream, name)
    while True:
        if _pauses(stream, PAUSE):
            yield None
        if (block := next(blocks, None)) is None:
            break
        *ended, rest = block.split(b"\n")  # splitlines() would also cut at U+2028 and others
        for part in ended:
            begun += part
            yield _decoded(begun, name, number)
            number += 1
            begun.clear()
        begun += rest
        if len(begun) > LONGEST:
            raise DataError(f"{name}: line {number} has more than {LONGEST:,} bytes; expected one text a line.")
    if begun:
        yield _decoded(begun, name, number)


def _decoded(line: bytearray, name: str, number: int) -> str:
    if number == 1 and line.startswith(_MARK):  # of Windows
        del line[: len(_MARK)]
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: line {number} ({error}). Convert it, e.g. with iconv.") from None


def _blocks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        while (block := stream.read(BLOCK)) != b"":
            if block is None:  # nothing there yet, of what does not wait by itself
                select.select([stream], [], [])
            else:
                yield block
    except OSError as error:
        raise _unreadable(name, error) from error


def _pauses(stream: IO[bytes], seconds: float) -> bool:
    """Whether nothing can be read for so long. False where the operating system does not tell, and for a file."""
    try:
        return not select.select([stream], [], [], seconds)[0]
    except (OSError, ValueError):  # Windows; no file descriptor, or one too large for this call
        return False


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe that nobody has open for writing, too."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(name: str, error: OSError) -> InputError:
    return DataError(f"{name} could not be read: {error.strerror or error}. Name a file that can be.")
