"""Files that are whole or absent: atomic writes, hashes, JSON, and the folder for what can be made again."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from calib8.errors import InputError, SetupError

#: What helps against each reason not to write.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free disk space or choose another folder"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A part of that path is a file, not a folder: choose another path"),
    errno.EISDIR: "That is a folder: choose another name, or remove it",
    errno.ENAMETOOLONG: "Choose a shorter name",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "Ask for permission to write there, or choose another folder"
    ),
}


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place on success, remove it on any failure.

    The body may put another file in the temporary one's place, such as a hard link. Raises ``SetupError`` when the
    operating system cannot write there (disk full, no permission), ``InputError`` for a pipe or a device.
    """
    path = Path(path)
    _require_replaceable(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _created(path.with_name(f".{path.name}.{secrets.token_hex(8)}.part"))
        with flock(temporary):  # which tells `sweep` that somebody is at work
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        temporary.mkdir(parents=True)
        with flock(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """``$CALIB8_CACHE``, or ``calib8`` in the folder that this platform uses for caches."""
    if chosen := os.environ.get("CALIB8_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "calib8"


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write ``array`` as ``.npy``, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def save_rows(path: Path, blocks: Iterable[NDArray[np.generic]]) -> tuple[int, ...]:
    """Write ``blocks`` [n, ...], one below the other, as one ``.npy``, atomically and as they come. Returns its shape.

    Memory is that of a block. There must be one, and all of one type and width.
    """
    with atomic(path) as temporary, temporary.open("wb") as stream:
        rows = 0
        block: NDArray[np.generic] = np.zeros(0, np.float32)
        for block in blocks:
            if not rows:
                _write_header(stream, (0, *block.shape[1:]), block.dtype)
            stream.write(np.ascontiguousarray(block).data)
            rows += len(block)
        shape = (rows, *block.shape[1:])
        stream.seek(0)  # NumPy leaves room in a header for its first number to grow to any
        _write_header(stream, shape, block.dtype)
    return shape


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; ``what`` names its role in the error message. Raises ``InputError``."""
    require_file(path, what)
    try:
        return from_json(Path(path).read_bytes())  # refuses halves of surrogate pairs, which cannot be written again
    except ValueError as error:
        article = "an" if what[0] in "aeiou" else "a"
        raise InputError(f"{path} is not {article} {what}: it is no valid JSON ({error}). Make it again.") from error


def require_file(path: Path, what: str) -> Path:
    """Return ``path`` if it is a file. Raises ``InputError`` that names its role otherwise."""
    path = Path(path)
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


def require_folder(output: Path | str) -> None:
    """Raise ``SetupError`` if no files can be written into a folder ``output``, which need not be there yet."""
    folder = Path(output).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise SetupError(f"could not write to {output}: {folder} is a file, expected a folder. Choose another path.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SetupError(f"could not write to {output}: no permission to write in {folder}. Choose another folder.")


def require_distinct(output: Path | str, *inputs: Path | str) -> None:
    """Raise ``InputError`` if writing ``output`` would overwrite one of ``inputs``, or an array in one of them."""
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
        require_folder(output.parent)
        if output.resolve() in (other.resolve() for other in given[:number]):
            raise InputError(
                f"{output} would be written twice by this command. Choose another name for one of the two."
            )


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unwritable(path: Path, error: OSError) -> SetupError:
    """What to raise for an ``error`` of the operating system at ``path``."""
    remedy = REMEDIES.get(error.errno or 0, "Choose another folder")
    return SetupError(
        f"could not write {path}: {error.strerror or error}. {remedy}; nothing half-written was left behind."
    )


def _created(path: Path) -> Path:
    """A new empty file, as readable as the user's umask has any other; ``tempfile`` would make it private."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


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
