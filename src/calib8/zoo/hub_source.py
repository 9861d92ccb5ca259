"""A model's files from the model hub, through the ``huggingface_hub`` library with its own cache and settings."""

import contextlib
import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calib8 import telemetry
from calib8.errors import FetchError
from calib8.files import sha256_file
from calib8.progress import Progress
from calib8.zoo.catalogue import HubRepository, Pinned
from calib8.zoo.place import place

#: Seconds until the hub counts as unreachable.
TIMEOUT = 3.0
_LARGE = 10_000_000


def fetch(source: HubRepository, wanted: Sequence[Pinned], target: Path, progress: Progress) -> None:
    """Put the ``wanted`` files under ``target``, each verified; what the library has cached needs no network.

    Raises ``FetchError``, within seconds where the hub cannot be reached.
    """
    telemetry.switch_off(telemetry.HUB)
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise FetchError("the package huggingface_hub is not installed") from error
    done, total = 0, sum(file.size for file in wanted)
    reached = False
    with quiet():
        for file in wanted:
            path = _cached(hub, source, file)
            if path is None and not reached:
                _reach(hub, source)
                reached = True
            if path is None:
                progress.update("download", done, total)
                if file.size > _LARGE:  # the library reports to nobody but the terminal
                    progress.note(f"{file.path} comes from the model hub: {file.size / 1e6:.0f} MB")
                path = _download(hub, source, file)
            _require_hash(path, file)
            place(path, target / file.path)
            done += file.size
            progress.update("download", done, total)


def _cached(hub: Any, source: HubRepository, file: Pinned) -> Path | None:
    try:
        path = hub.hf_hub_download(source.repo, file.path, revision=source.revision, local_files_only=True)
    except Exception:  # the library has one class per reason, and other ones in other versions
        return None
    return Path(path)


def _reach(hub: Any, source: HubRepository) -> None:
    """One question with a short deadline: a download would try again for half a minute before it gives up."""
    try:
        hub.HfApi().model_info(source.repo, revision=source.revision, timeout=TIMEOUT)
    except Exception as error:
        raise FetchError(f"the model hub cannot be reached ({first_line(error)})") from error


def _download(hub: Any, source: HubRepository, file: Pinned) -> Path:
    try:
        return Path(hub.hf_hub_download(source.repo, file.path, revision=source.revision, etag_timeout=TIMEOUT))
    except Exception as error:
        raise FetchError(f"the model hub did not deliver {file.path} ({first_line(error)})") from error


def _require_hash(path: Path, file: Pinned) -> None:
    if (found := sha256_file(path)) != file.sha256:
        raise FetchError(
            f"{file.path} from the model hub has SHA-256 {found}, expected {file.sha256}; it is not used. "
            f"If it should be a damaged download, delete {path}"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no talk of retries on the terminal while the library works for us."""
    bars = importlib.import_module("huggingface_hub.utils")
    logger = logging.getLogger("huggingface_hub")
    level, shown = logger.level, not bars.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    bars.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            bars.enable_progress_bars()


def first_line(error: Exception) -> str:
    """What an error of the library says, in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no details'])[0]}"
