"""Any repository of the model hub, or a folder of its files: ``calib8 fetch OWNER/NAME --to DIR``.

Rules:
1. The commit is pinned: that of a branch or tag, or of the newest state, is asked for once and recorded with the hash
   of every file. A folder that holds a repository whole is left as it is, until another revision is named.
2. An ONNX file is taken as it is, with its files of weights: the one that is named, ``model.onnx`` or
   ``onnx/model.onnx``, or the only one there is.
3. Without one, PyTorch weights are exported here, of the families that ``zoo.export`` knows.
4. What calib8 did not put there is not replaced.
"""

import importlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from calib8 import telemetry
from calib8.errors import FetchError, InputError, SetupError
from calib8.files import atomic, read_json, require_folder, require_reachable, sha256_file, write_json
from calib8.progress import Progress
from calib8.zoo.hub_source import TIMEOUT, first_line, quiet
from calib8.zoo.place import place

MODEL, RECORD = "model.onnx", "calib8-model.json"
#: Rule 2.
USUAL = (MODEL, "onnx/model.onnx")
#: Rule 3: what the export reads.
WEIGHTS = ("config.json", "model.safetensors")
#: What tells how the model is fed and what its outputs are.
BESIDE = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*Pooling/config.json"),
)
#: Gives the path of a file of the repository on this machine.
Get = Callable[[str], Path]


def is_repository(name: str) -> bool:
    """Whether ``name`` is of a repository or a folder, and not of a reference model."""
    return "/" in name or Path(name).is_dir()


def fetch_repository(name: str, to: Path, file: str | None, progress: Progress) -> Path:
    """Make ``to`` a folder with the model of the repository, or folder, ``name``; returns ``to``.

    ``name``: ``OWNER/NAME``, ``OWNER/NAME@REVISION`` or a path. ``file``: which ONNX file of several.

    Raises ``InputError`` (no or several such files, a folder with files of others), ``SetupError`` (packages that are
    missing) and ``FetchError`` (the hub does not deliver, a model that cannot be exported).
    """
    require_reachable(to)
    local = Path(name).is_dir()
    repository, _, revision = (name, "", "") if local else name.partition("@")
    if not local and (known := _held(to, repository, revision, file)):
        progress.note(f"{to} already holds {repository} at {known}, and every file has its SHA-256: nothing to do")
        return to
    if local:
        paths, get = _of_folder(Path(repository))
    else:
        telemetry.switch_off(telemetry.HUB)
        with quiet():
            revision, paths = _asked(repository, revision)
        get = _from_hub(repository, revision, progress)
    chosen = _chosen(paths, repository, file)
    if chosen is None and not set(WEIGHTS) <= set(paths):
        raise InputError(
            f"{repository} has no ONNX file, and not {' and '.join(WEIGHTS)} to make one of. Export it: "
            "optimum-cli export onnx, or torch.onnx.export."
        )
    _refuse_others(to, repository)
    require_folder(to)
    asked = {"repository": repository, "revision": revision, "onnx": file or chosen or ""}
    write_json(to / RECORD, {**asked, "files": {}})  # first: what is interrupted is known for calib8's own
    placed = _onnx(chosen, paths, get, to) if chosen else _exported(repository, paths, get, to, progress)
    for path in (path for path in paths if any(fnmatchcase(path, pattern) for pattern in BESIDE)):
        place(get(path), to / path)
        placed.append(path)
    write_json(to / RECORD, {**asked, "files": {path: sha256_file(to / path) for path in placed}})
    return to


def _held(to: Path, repository: str, revision: str, file: str | None) -> str:
    """The commit at which ``to`` holds it whole (rule 1); nothing if it does not."""
    try:
        record = read_json(to / RECORD, "model record")
        same = record["repository"] == repository and file in (None, record["onnx"])
        commit, files = str(record["revision"]), dict(record["files"])
    except (InputError, KeyError, TypeError, ValueError):
        return ""
    whole = MODEL in files and all(
        (to / path).is_file() and sha256_file(to / path) == known for path, known in files.items()
    )
    return commit if same and whole and revision in ("", commit) else ""


def _of_folder(folder: Path) -> tuple[list[str], Get]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ), folder.__truediv__


def _asked(repository: str, revision: str) -> tuple[str, list[str]]:
    """The commit, and the paths of the files that it has."""
    try:
        found = _hub().HfApi().model_info(repository, revision=revision or None, timeout=TIMEOUT)
    except Exception as error:  # the library has one class per reason, and other ones in other versions
        at = f" at {revision}" if revision else ""
        raise FetchError(
            f"the model hub gives nothing of {repository}{at} ({first_line(error)}). Check the name and the network; a "
            "gated repository needs `hf auth login`."
        ) from error
    paths = (str(sibling.rfilename) for sibling in found.siblings or ())
    return str(found.sha), sorted(path for path in paths if not PurePosixPath(path).is_absolute() and ".." not in path)


def _from_hub(repository: str, revision: str, progress: Progress) -> Get:
    def get(path: str) -> Path:
        progress.note(f"{path} of {repository} at {revision[:12]}")
        try:
            with quiet():
                return Path(_hub().hf_hub_download(repository, path, revision=revision, etag_timeout=TIMEOUT))
        except Exception as error:
            raise FetchError(f"the model hub did not deliver {path} ({first_line(error)}). Run it again.") from error

    return get


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise SetupError(
            "the package huggingface_hub is not installed, which fetches from the model hub. Install it: pip install "
            "huggingface_hub."
        ) from error


def _chosen(paths: Sequence[str], repository: str, file: str | None) -> str | None:
    """Rule 2."""
    onnx = [path for path in paths if path.endswith(".onnx")]
    if file is not None and file not in onnx:
        raise InputError(f"{repository} has no ONNX file {file}: it has {', '.join(onnx) or 'none'}.")
    if file is not None or not onnx:
        return file
    usual = [path for path in USUAL if path in onnx]
    if not usual and len(onnx) > 1:
        raise InputError(f"{repository} has several ONNX files: {', '.join(onnx)}. Name one of them: --file {onnx[0]}.")
    return (usual or onnx)[0]


def _refuse_others(to: Path, repository: str) -> None:
    """Rule 4."""
    if to.exists() and not to.is_dir():
        raise InputError(f"{to} is a file, expected a folder to put {repository} into. Choose another path.")
    if (to / MODEL).exists() and not (to / RECORD).exists():
        raise InputError(
            f"{to / MODEL} exists and was not put there by calib8 fetch (no {RECORD} beside it): refusing to replace "
            "it. Choose another folder or move the file away."
        )


def _onnx(chosen: str, paths: Sequence[str], get: Get, to: Path) -> list[str]:
    """The ONNX file as ``MODEL``, and its weights under the names by which it calls them."""
    place(get(chosen), to / MODEL)
    weights = [path for path in paths if path.startswith((f"{chosen}_data", f"{chosen}.data"))]
    for path in weights:
        place(get(path), to / Path(path).name)
    return [MODEL, *(Path(path).name for path in weights)]


def _exported(repository: str, paths: Sequence[str], get: Get, to: Path, progress: Progress) -> list[str]:
    """Rule 3."""
    from calib8.zoo import export

    export.require_packages()
    with TemporaryDirectory(prefix="calib8-") as folder, atomic(to / MODEL) as temporary:
        for path in WEIGHTS:
            place(get(path), Path(folder) / path)
        export.export(Path(folder), temporary, {"calib8.repository": repository}, progress)
    return [MODEL]
