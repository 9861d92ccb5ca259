"""Put a verified file somewhere, whole or not at all. Large files are hard links where the disk allows it.

Small files are copies: whoever edits the tokenizer's settings in place must not edit the cache with them.
"""

import shutil
from pathlib import Path

from calib8.files import atomic

#: Bytes from which a hard link is worth it.
_LARGE = 16 << 20


def place(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source`` (links followed). Raises ``SetupError`` when the disk is full."""
    source = source.resolve()
    with atomic(target) as temporary:
        if not (source.stat().st_size >= _LARGE and _link(source, temporary)):
            shutil.copyfile(source, temporary)


def _link(source: Path, target: Path) -> bool:
    """Replace ``target`` by a hard link; False where that cannot be: another file system, or one without links."""
    target.unlink()
    try:
        target.hardlink_to(source)
    except OSError:
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove what a killed run left under ``folder``: the temporary files of ``calib8.files.atomic``."""
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
