"""What an export leaves beside the models: what they were made from, and the SHA-256 of each file.

A later export replaces a folder only if the marker accounts for everything in it, so that nothing a person added or
edited is lost.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.errors import InputError
from calib8.files import sha256_file, write_json

MARKER = "calib8-triton.json"
#: Where Python keeps the compiled ``model.py`` of a step that Triton has loaded.
COMPILED = "__pycache__"
REMEDY = "Choose an empty or a new folder."


class Marker(BaseModel):
    """``calib8-triton.json``. ``files`` maps paths within the folder to their SHA-256; the marker is not among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.triton/1"] = "calib8.triton/1"
    name: str
    models: tuple[str, ...]
    needs: str
    made_from: str
    sha256: str
    files: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write it to ``folder``."""
        write_json(folder / MARKER, self.model_dump(mode="json"))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, by its path in it."""
    return {name: sha256_file(path) for name, path in _entries(folder) if path.is_file()}


def require_replaceable(output: Path) -> None:
    """Raise ``InputError`` unless ``output`` is absent, empty, or an export with nothing added or changed since."""
    if not output.is_dir():
        if output.exists():
            raise InputError(f"{output} is a file, expected a folder for the model repository. Choose another path.")
        return
    found = dict(_entries(output))
    if not found:
        return
    if not (output / MARKER).is_file():
        raise InputError(f"{output} holds files that calib8 did not write, e.g. {min(found)}. {REMEDY}")
    files = _read(output / MARKER).files
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if added := found.keys() - files.keys() - folders - {MARKER}:
        raise InputError(f"{output} was exported by calib8, but {min(added)} was added since. {REMEDY}")
    for name, path in sorted(found.items()):
        if name != MARKER and not _is_as_written(path, files.get(name)):
            raise InputError(f"{output} was exported by calib8, but {name} was changed since. {REMEDY}")


def _is_as_written(path: Path, sha256: str | None) -> bool:
    """Whether it is the file with this hash, a folder if None. Never a link: somebody made it, if to an equal file."""
    if path.is_symlink():
        return False
    return path.is_dir() if sha256 is None else path.is_file() and sha256_file(path) == sha256


def _read(path: Path) -> Marker:
    try:
        return Marker.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "its content"
        raise InputError(f"{path} is no note of calib8's on an export ({where}: {problem['msg']}). {REMEDY}") from None


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything below ``folder`` by its path in it, but for what Python compiled."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if COMPILED not in name.parts:
            yield name.as_posix(), path
