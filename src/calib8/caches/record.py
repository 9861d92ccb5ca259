"""What a calibration cache was made from, in ``<cache>.json`` beside it: TensorRT's own file cannot tell.

The record holds for the entries that it was written with. The first line is left out of that, since people adapt it to
another TensorRT by hand, and rightly so.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.caches.cache import Cache
from calib8.config import first_problem
from calib8.errors import CacheError, InputError
from calib8.files import read_json, write_json
from calib8.progress import Progress
from calib8.provenance import Origin


class CacheRecord(BaseModel):
    """The model, data, settings and tools behind a cache, and which entries it had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.cache/1"] = "calib8.cache/1"
    header: str
    tensors: int
    entries_sha256: str
    origin: Origin


def record_path(cache: Path) -> Path:
    """Where the record of the cache file ``cache`` lies."""
    return cache.with_name(f"{cache.name}.json")


def save_with_record(cache: Cache, path: Path, origin: Origin | None) -> None:
    """Write ``cache`` to ``path`` and its record beside it; without ``origin`` no record is left there."""
    cache.save(path)
    if origin is None:
        record_path(path).unlink(missing_ok=True)
        return
    _save_record(cache, path, origin)


@contextmanager
def lent_to_calibrator(path: Path, origin: Origin, progress: Progress) -> Iterator[None]:
    """While TensorRT calibrates with the cache file ``path``: what it may not read is refused, what it wrote recorded.

    Raises ``CacheError`` as ``require_fit`` does; ``origin`` is what a cache written now is made from.
    """
    before = path.read_bytes() if path.is_file() else None
    if before is not None:
        require_fit(path, origin.model_sha256, progress, data_sha256=origin.data_sha256)
    yield
    if path.is_file() and path.read_bytes() != before:
        _save_record(Cache.load(path), path, origin)


def _save_record(cache: Cache, path: Path, origin: Origin) -> None:
    record = CacheRecord(
        header=cache.header, tensors=len(cache.scales), entries_sha256=_entries_sha256(cache), origin=origin
    )
    write_json(record_path(path), record.model_dump())


def require_fit(path: Path, model_sha256: str, progress: Progress, *, data_sha256: str = "") -> Origin | None:
    """Raise ``CacheError`` if the cache file ``path`` was made from another model, or other data, than these.

    Hashes are ``graph.io.source_sha256`` of the FP32 model and ``Source.fingerprint`` of the data; an empty one is not
    compared. Returns what the cache was made from; None, and a note, where nothing tells: TensorRT writes no record,
    and a record says nothing of entries that were changed after it.
    """
    cache, record = Cache.load(path), read_record(path)
    if record is None:
        progress.note(f"nothing says which model and data {path} was made from: only names could be compared")
        return None
    if record.entries_sha256 != _entries_sha256(cache):
        progress.note(
            f"{path} was changed after {record_path(path).name} was written: what that says of model and data no "
            "longer counts, and only names could be compared"
        )
        return None
    for what, own, theirs in (
        ("model", model_sha256, record.origin.model_sha256),
        ("data", data_sha256, record.origin.data_sha256),
    ):
        if own and theirs and own != theirs:
            raise CacheError(
                f"{path} was made from another {what}, says {record_path(path).name}: its SHA-256 begins with "
                f"{theirs[:12]}, this one's with {own[:12]}. Use the {what} that it was made from, or calibrate again; "
                "a cache does not survive retraining."
            )
    return record.origin


def read_record(path: Path) -> CacheRecord | None:
    """The record of the cache file ``path``; None if there is none. Raises ``CacheError`` for a damaged one."""
    beside = record_path(path)
    if not beside.exists():
        return None
    try:
        return CacheRecord.model_validate(read_json(beside, "record of a calibration cache"))
    except ValidationError as error:
        raise CacheError(
            f"{beside} is not calib8's record of a calibration cache: {first_problem(error)}. Move it away, or "
            "calibrate again."
        ) from None
    except InputError as error:
        raise CacheError(str(error)) from None


def _entries_sha256(cache: Cache) -> str:
    """Names and scales, whatever the first line, the case of digits and the line ends."""
    lines = "".join(f"{name}: {scale.hex()}\n" for name, scale in cache.scales.items())
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()
