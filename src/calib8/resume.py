"""Work under way, kept beside its output: a run that was killed goes on where it was."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from calib8.errors import InputError, SetupError
from calib8.files import flock, read_json, unwritable, write_json
from calib8.progress import Progress

#: A file in every folder of unfinished work: a folder without it is somebody else's, and never removed.
MARK = ".made-by-calib8"
#: Attribute of an exception that ended work of which something was kept: the folder.
KEPT = "calib8_kept"


def beside(output: Path) -> Path:
    """Where the unfinished work on the file ``output`` is kept."""
    return output.with_name(f"{output.name}.unfinished")


def within(output: Path) -> Path:
    """Where the unfinished work on the folder ``output`` is kept."""
    return output / ".calib8-unfinished"


@contextlib.contextmanager
def unfinished_work(path: Path | None) -> Iterator[Path | None]:
    """Hold the folder ``path`` for the steps of a piece of work. It goes when the body ends well; None keeps nothing.

    Raises ``SetupError`` while another process is at work there: each would count what the other kept. ``InputError``
    if there is a folder that calib8 did not make.
    """
    if path is None:
        yield None
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    with flock(path, wait=False) as held:
        if held is False:
            raise SetupError(f"another run is at work in {path}. Wait until it has ended, or choose another output.")
        _mark(path)
        try:
            yield path
        except BaseException as error:
            if _names(path) == {MARK}:  # nothing was kept
                _remove(path)
            else:
                vars(error)[KEPT] = path
            raise
        _remove(path)


def kept_from(error: BaseException | None) -> Path | None:
    """The folder of unfinished work that ``error``, or one that it followed from, left for the next run."""
    while error is not None:
        if KEPT in vars(error):
            return Path(vars(error)[KEPT])
        error = error.__cause__ or error.__context__
    return None


def discard(path: Path) -> None:
    """Remove what is left at ``path`` of a run that was killed after its output was whole."""
    if not (path / MARK).is_file():
        return
    with flock(path, wait=False) as held:
        if held is not False:
            _remove(path)


@contextlib.contextmanager
def unfinished_step(path: Path, key: Mapping[str, object], progress: Progress) -> Iterator[Path]:
    """The folder ``path`` for a step that ``key``, of JSON's types, tells from all other.

    What an earlier run left there of the same step is still there; of another it is thrown away, which ``progress`` is
    told. If the body ends without having kept anything, as by an early Ctrl-C, the folder goes.
    """
    told = json.loads(json.dumps(key), parse_constant=str)  # a file of JSON has infinity only as a word
    try:
        same = read_json(path / "key.json", "key") == told
    except InputError:
        same = False
    if not same:
        if _names(path) - {"key.json"}:
            progress.note(
                f"starting anew: what an earlier run kept in {path} was done with other data, settings or versions"
            )
        shutil.rmtree(path, ignore_errors=True)
        write_json(path / "key.json", told)
    try:
        yield path
    finally:
        if _names(path) == {"key.json"}:
            shutil.rmtree(path, ignore_errors=True)


def is_whole(archive: Path) -> bool:
    """Whether an ``.npz`` file is there and undamaged: after a loss of power a file can be without its content."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.testzip() is None
    except Exception:  # whatever a damaged file leads to
        return False


def _mark(path: Path) -> None:
    """Make the folder ``path`` ours. Raises ``InputError`` if somebody else has something there."""
    if (path / MARK).exists():
        return
    if _names(path):
        raise InputError(
            f"{path} holds files that calib8 did not make, expected nothing there: work under way is kept at that "
            "place, and removed when it is done. Move that folder away, or choose another output."
        )
    try:
        (path / MARK).touch()
    except OSError as error:
        raise unwritable(path, error) from error


def _remove(path: Path) -> None:
    """The mark goes last: if this is interrupted, what is left is known as ours."""
    for each in path.glob("*"):
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != MARK:
            each.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _names(path: Path) -> set[str]:
    return {each.name for each in path.glob("*")}
