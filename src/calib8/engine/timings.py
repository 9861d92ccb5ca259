"""TensorRT's timing cache: how long each kernel took on this GPU, so that the next build need not measure it again.

TensorRT keeps in it which version and which GPU it is of, and takes no other ("Timing Cache", Optimizing Builder
Performance). A file that it does not take, or that is damaged, is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from calib8.errors import SetupError
from calib8.files import default_cache, locked, require_separate, unwritable, write_bytes
from calib8.gpu.hardware import Gpu

if TYPE_CHECKING:
    from tensorrt import IBuilderConfig, ITimingCache


class Timings(TypedDict):
    """Where timings are kept. Only of a file that somebody named it is an error if it cannot be written."""

    path: str
    named: bool


def timings_of(named: Path | None, version: str, gpu: Gpu) -> Timings:
    """The file ``named``, or the one in the user's cache that is for TensorRT ``version`` on this kind of GPU.

    Raises ``SetupError`` if ``named`` cannot be written, ``InputError`` if it is a folder: that is known before the
    build, which would be lost.
    """
    if named is not None:
        require_separate([named], [])
        return Timings(path=str(named.resolve()), named=True)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu.name} {gpu.target} tensorrt {version}")
    return Timings(path=str(default_cache() / "timings" / f"{name}.cache"), named=False)


@contextmanager
def kept_timings(config: IBuilderConfig, timings: Timings | None, emit: Callable[..., None]) -> Iterator[None]:
    """Lend a build the timings that are kept, and keep those that it adds if it ran.

    Builds that go on at the same time add to one another's. Raises ``SetupError`` if a named file cannot be written.
    """
    if timings is None:
        yield
        return
    path, known = Path(timings["path"]), _read(timings)
    if not _attached(config, known):
        emit("note", f"{path} is of another GPU or another TensorRT, or damaged: began a new timing cache")
        known = b""
        _attached(config, known)
    yield
    try:
        _write(path, known, config)
    except SetupError as error:
        if timings["named"]:
            raise
        emit("note", f"the timings of this build are not kept: {error}")


def _attached(config: IBuilderConfig, content: bytes) -> bool:
    cache = _cache(config, content)
    return cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)


def _cache(config: IBuilderConfig, content: bytes) -> ITimingCache | None:
    """None if TensorRT does not take it for one; its stubs do not tell."""
    return config.create_timing_cache(content)


def _read(timings: Timings) -> bytes:
    path = Path(timings["path"])
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        if timings["named"]:
            raise SetupError(f"could not read the timing cache {path}: {error.strerror}. Name another.") from error
        return b""


def _write(path: Path, known: bytes, config: IBuilderConfig) -> None:
    """Together with what other builds have written since ``known`` was read."""
    own = config.get_timing_cache()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            latest = path.read_bytes() if path.is_file() else b""
            if latest not in (b"", known) and (theirs := _cache(config, latest)) is not None:
                own.combine(theirs, ignore_mismatch=False)
            write_bytes(path, bytes(own.serialize()))
    except OSError as error:
        raise unwritable(path, error) from error
