"""Put a verified file somewhere, whole or not at all."""

import shutil
from pathlib import Path

from calib8.files import atomic


def place(source: Path, target: Path) -> None:
    """Copy ``source`` (links followed) to ``target``. Raises ``SetupError`` when the disk is full.

    Never a hard link: there are tools that rewrite a model in place, and they would rewrite the cache with it.
    """
    with atomic(target) as temporary:
        shutil.copyfile(source.resolve(), temporary)


def sweep(folder: Path) -> None:
    """Remove what a killed run left under ``folder``: the temporary files of ``calib8.files.atomic``."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
