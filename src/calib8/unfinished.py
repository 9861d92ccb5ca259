"""Work under way, kept beside its output: a run that was killed goes on where it was."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from calib8.errors import InputError, SetupError
from calib8.files import flock, read_json, unwritable, write_json


def beside(output: Path) -> Path:
    """Where the unfinished work on the file ``output`` is kept."""
    return output.with_name(f"{output.name}.unfinished")


@contextlib.contextmanager
def unfinished_work(path: Path | None) -> Iterator[Path | None]:
    """Hold the folder ``path`` for the steps of a piece of work. It goes when the body ends well; None keeps nothing.

    Raises ``SetupError`` while another process is at work there: each would count what the other kept.
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
        try:
            yield path
        except BaseException:
            with contextlib.suppress(OSError):  # something was kept
                path.rmdir()
            raise
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def unfinished_step(path: Path, key: Mapping[str, object]) -> Iterator[Path]:
    """The folder ``path`` for a step that ``key``, of JSON's types, tells from all other.

    What an earlier run left there of the same step is still there; of another it is thrown away. If the body ends
    without having kept anything, as by an early Ctrl-C, the folder goes.
    """
    told = json.loads(json.dumps(key))
    try:
        same = read_json(path / "key.json", "key") == told
    except InputError:
        same = False
    if not same:
        shutil.rmtree(path, ignore_errors=True)
        write_json(path / "key.json", told)
    try:
        yield path
    finally:
        if {kept.name for kept in path.glob("*")} == {"key.json"}:
            shutil.rmtree(path, ignore_errors=True)
