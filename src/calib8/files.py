"""Files that are whole or absent: atomic writes, hashes, JSON, and the folder for what can be made again."""

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from calib8.errors import Calib8Error, ConfigError, InputError, SetupError

#: What helps against each reason not to write.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free disk space or choose another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A part of that path is a file, not a folder: choose another path"),
    errno.EISDIR: "That is a folder: choose another name, or remove it",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "A link in that path leads back to itself: choose another path, or mend the link",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "Ask for permission to write there, or choose another folder"
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the number of files that may be open (ulimit -n)"),
}
#: The same for reading, where that is something else.
READING = {
    errno.ENOENT: "Check the path",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A part of that path is a file, not a folder: check the path"),
    errno.EISDIR: "That is a folder: name the file in it",
    errno.ENAMETOOLONG: "No file can have that path: check it",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Ask for permission to read it"),
    **dict.fromkeys((errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE), "Give a regular file on a sound disk"),
}


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place on success, remove it on any failure.

    The body may put another file in the temporary one's place, such as a hard link. Raises ``SetupError`` when the
    operating system cannot write there (disk full, no permission), ``InputError`` for a pipe or a device.
    """
    path = Path(path)
    _require_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path, _create, lambda temporary: temporary.unlink(missing_ok=True)) as temporary:
            with _of_others(path, temporary):
                yield temporary
            temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def _temporary(path: Path, make: Callable[[Path], None], remove: Callable[[Path], None]) -> Iterator[Path]:
    """A new temporary of ``path``, locked, which tells ``sweep`` that somebody is at work; gone afterwards.

    Before it is locked, a sweep may take it for what a killed process left: then another is made.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with contextlib.ExitStack() as held:
            held.callback(remove, temporary)
            make(temporary)
            with contextlib.suppress(FileNotFoundError):
                held.enter_context(flock(temporary))
            if temporary.exists():
                yield temporary
                return


@contextlib.contextmanager
def _of_others(*own: Path) -> Iterator[None]:
    """Within the body an error at a path that is none of ``own``, as of a file that is read, is told as one of that."""
    try:
        yield
    except OSError as error:
        if (refused := refusal(error)) is None or str(error.filename) in map(str, own):
            raise
        raise refused from error


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """``atomic`` for a folder and all that the body puts into it. A folder that is there is replaced: check it before.

    Folders that earlier processes left when they were killed go, too. Raises ``SetupError`` as ``atomic`` does.
    """
    path = Path(path)
    try:
        with temporary_folder(path) as temporary:
            yield temporary
            with _set_aside(path):
                temporary.replace(path)
        sweep(path)
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` that is gone afterwards, for files that are moved from there; ``sweep`` knows it."""
    make, remove = partial(Path.mkdir, parents=True), partial(shutil.rmtree, ignore_errors=True)
    with _temporary(path, make, remove) as temporary:
        yield temporary


@contextlib.contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Move ``folder`` away, if it is there, since none can be renamed over one that holds anything. Back on failure."""
    if not folder.is_dir():
        yield
        return
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    folder.replace(aside)
    try:
        yield
    except BaseException:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove the temporaries of ``path`` whose writer was killed; those that are being written are held."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.part"):
        with contextlib.suppress(OSError), flock(temporary, wait=False) as held:
            if not held:
                continue
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()


@contextlib.contextmanager
def locked(folder: Path, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Wait until no other process or thread holds ``folder``, and hold it: for files that belong together.

    Only those who ask for the lock too are kept out. A process that dies lets go. Where the operating system or the
    file system knows no such locks, there is none. ``note`` is told that there is somebody to wait for.
    """
    with contextlib.ExitStack() as held:
        if held.enter_context(flock(folder, wait=False)) is False:
            note(f"waiting: another run is at work in {folder}")
            held.enter_context(flock(folder))
        yield


def default_cache() -> Path:
    """``$CALIB8_CACHE``, or ``calib8`` in the folder that this platform uses for caches.

    Raises ``SetupError`` for a user without a home folder, as in a container that runs as a number.
    """
    if chosen := os.environ.get("CALIB8_CACHE"):
        return Path(chosen)
    try:
        return _platform_cache() / "calib8"
    except RuntimeError as error:
        raise SetupError(f"no folder for the cache ({error}). Set CALIB8_CACHE to one, or HOME.") from None


def _platform_cache() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """``content`` of JSON's types with None for what JSON has no number for: infinity, and what is no number."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; ``what`` names its role in the error message. Raises ``InputError``."""
    content = read_bytes(path, what)
    try:
        return parse_json(content)
    except ValueError as error:
        article = "an" if what[0] in "aeiou" else "a"
        raise InputError(f"{path} is not {article} {what}: it is no valid JSON ({error}). Make it again.") from error


def parse_json(content: str | bytes) -> Any:
    """What a JSON document holds. Raises ``ValueError`` for what is none, and for what readers take differently.

    That is a key twice in an object, and halves of surrogate pairs, which cannot be written again. NaN and infinities
    are left for whoever knows what the number is of.
    """
    from_json(content)
    return json.loads(content, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice[:80]!r} appears twice in an object")
    return found


def read_bytes(path: Path, what: str) -> bytes:
    """What a file holds; ``what`` names its role. Raises ``InputError`` if there is none, or it cannot be read."""
    with reading(require_file(path, what)):
        return Path(path).read_bytes()


def require_file(path: Path, what: str) -> Path:
    """Return ``path`` if it is a file. Raises ``InputError`` that names its role otherwise."""
    path = Path(path)
    require_reachable(path)
    if not path.is_file():
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected a file: {what}. Name the file in it.")
        if kind := special(path):
            raise InputError(
                f"{path} is {kind}, expected a file: {what}. Save what comes out of it to a file, and name that."
            )
        raise InputError(f"{what} not found: expected a file at {path}, found nothing there. Check the path.")
    return path


def special(path: Path) -> str | None:
    """What is at ``path`` if it is neither a file nor a folder: ``a pipe``, say. None if it is, or nothing is there."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def require_reachable(path: Path | str) -> None:
    """Raise ``InputError`` for a path that is refused wherever it leads, whether anything is there or not.

    That is one behind a folder without permission, with too long a name, with a link that leads back to itself, or with
    a character that no name can have.
    """
    with reading(path, "reach"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        Path(path).stat()


@contextlib.contextmanager
def reading(path: Path | str, what: str = "read") -> Iterator[None]:
    """Within the body what the operating system refuses to do with ``path`` is told as ``InputError``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"could not {what} {path}: {_explained(error)}") from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise InputError(f"could not {what} {path}: no name can hold a null character. Check the path.") from error


def refusal(error: OSError) -> Calib8Error | None:
    """What to raise for an ``error`` of which only the path is known, not what was to be done with it; None without."""
    if error.filename is None:
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return SetupError(f"could not use {name}: {_explained(error)}")


def _explained(error: OSError) -> str:
    remedy = READING.get(error.errno or 0) or REMEDIES.get(error.errno or 0, "Choose another path")
    return f"{error.strerror or error}. {remedy}."


def require_folder(output: Path | str, file: Path | None = None) -> None:
    """Raise ``SetupError`` if no files can be written into a folder ``output``, which need not be there yet.

    ``file`` is what is to be written there, where it is one that the error should name.
    """
    require_reachable(output)
    folder = Path(output).absolute()
    refused = f"could not write to {output}" if file is None else f"could not write {file}"
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise SetupError(f"{refused}: {folder} is a file, expected a folder. Choose another path.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SetupError(f"{refused}: no permission to write in {folder}. Choose another folder.")
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permission is not all: it may be full, or no place for files
    except OSError as error:
        raise unwritable(file or Path(output), error) from error


def require_distinct(output: Path | str, *inputs: Path | str) -> None:
    """Raise ``InputError`` if writing ``output`` would overwrite one of ``inputs``, or an array in one of them."""
    for given in (output, *inputs):
        require_reachable(given)
    for path in (Path(given).resolve() for given in inputs):
        own = Path(output).resolve()
        if own == path or (own.parent == path and own.suffix in (".npy", ".npz")):
            what = "is an input" if own == path else "would be among the inputs"
            raise InputError(f"{output} {what} of this command and would be overwritten. Choose another output.")


def _require_replaceable(output: Path) -> None:
    """Raise ``InputError`` for what a finished file must not be renamed over: a pipe of somebody's, ``/dev/null``."""
    if kind := special(output):
        raise InputError(f"{output} is {kind}, expected the name of a file to write. Name one, and copy it from there.")


def require_separate(outputs: Iterable[Path | str | None], inputs: Iterable[Path | str]) -> None:
    """Raise before the work what would go wrong when ``outputs`` (None is none), files, are written.

    ``InputError``: one would overwrite an input, or another output, or is a folder. ``SetupError``: it cannot be there.
    """
    given, inputs = [Path(output) for output in outputs if output is not None], tuple(inputs)
    for number, output in enumerate(given):
        require_distinct(output, *inputs)
        if output.is_dir():
            raise InputError(f"{output} is a folder, expected the name of a file to write. Name one in it.")
        _require_replaceable(output)
        require_folder(output.parent, output)
        if output.resolve() in (other.resolve() for other in given[:number]):
            raise InputError(
                f"{output} would be written twice by this command. Choose another name for one of the two."
            )


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in blocks."""
    digest = hashlib.sha256()
    with reading(path), Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unwritable(path: Path, error: OSError) -> SetupError:
    """What to raise for an ``error`` of the operating system at ``path``."""
    remedy = REMEDIES.get(error.errno or 0, "Choose another folder")
    return SetupError(
        f"could not write {path}: {error.strerror or error}. {remedy}; nothing half-written was left behind."
    )


def _create(path: Path) -> None:
    """A new empty file, as readable as the user's umask has any other; ``tempfile`` would make it private."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


@contextlib.contextmanager
def flock(path: Path, *, wait: bool = True) -> Iterator[bool | None]:
    """Hold a file or folder, and say whether: without ``wait`` False while another does; None if there are no locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield None
        return
    handle, held = os.open(path, os.O_RDONLY), None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            pass
        yield held
    finally:
        os.close(handle)


def named(*given: object) -> list[Path | str]:
    """Those that are files or folders."""
    return [one for one in given if isinstance(one, (str, Path))]


def require_path(given: object) -> Path:
    """``given`` as a path. Raises ``ConfigError`` for anything else, such as a model in memory."""
    if not isinstance(given, (str, Path)):
        raise ConfigError(f"got a model of type {type(given).__name__}, expected the path of its file.")
    return Path(given)
