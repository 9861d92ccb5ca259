"""Calibration data for TensorRT 10's calibrator: checked against the model, then batches of one shape in files.

A calibrator takes whole batches of one shape. So sequences are padded with zeros to the longest where the model has a
mask, and the last batch is filled up with the first samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from calib8.data.batching import Dataset
from calib8.data.inputs import InputSpec
from calib8.data.sources import Source
from calib8.engine.calibrator import CacheFile, cache_header
from calib8.engine.config import Build
from calib8.engine.options import CalibratorName
from calib8.engine.profiles import Profile, Shape, resolve_profiles
from calib8.errors import ConfigError, DataError, SetupError
from calib8.files import sha256_file
from calib8.progress import Progress


class CalibrationOrigin(BaseModel):
    """What INT8 scales were found from, in a sidecar."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: SHA-256 of the data; None if there was only a cache.
    data_sha256: str | None
    batch: int
    #: SHA-256 of the calibration cache that was read or written.
    cache_sha256: str | None


@dataclass(frozen=True)
class CalibrationData:
    """Everything that a calibrating build needs beside the model. ``dataset`` is None where the cache is enough."""

    algorithm: CalibratorName
    dataset: Dataset | None
    #: What one batch is like, by input.
    shapes: Mapping[str, Shape]
    batch: int
    cache: CacheFile
    #: The shapes, as the profile to calibrate with: one for each dynamic input.
    profiles: tuple[Profile, ...]

    def origin(self) -> CalibrationOrigin:
        """Of a build that begins or ends now; the cache as it is."""
        path = self.cache.path
        return CalibrationOrigin(
            data_sha256=self.dataset.fingerprint if self.dataset else None,
            batch=self.batch,
            cache_sha256=sha256_file(path) if path is not None and path.is_file() else None,
        )

    def request(self, folder: Path) -> dict[str, Any]:
        """Write the batches into ``folder``; what the worker must know. Raises ``SetupError`` if there is no room."""
        try:
            files = {name: str(self._write(name, folder / f"{n}.npy")) for n, name in enumerate(self._inputs())}
        except OSError as error:
            raise SetupError(
                f"could not write calibration batches to {folder}: {error.strerror or error}. Free disk space there, "
                "or set TMPDIR to another folder."
            ) from error
        return {
            "algorithm": self.algorithm,
            "files": files,
            "batch": self.batch,
            "cache": str(self.cache.path.resolve()) if self.cache.path is not None else None,
            "header": self.cache.header,
            "profile": {profile.name: profile.opt for profile in self.profiles},
        }

    def _inputs(self) -> list[str]:
        return [spec.name for spec in self.dataset.specs] if self.dataset else []

    def _write(self, name: str, path: Path) -> Path:
        assert self.dataset is not None
        samples, rows = len(self.dataset), self.shapes[name][1:]
        filled = -(-samples // self.batch) * self.batch
        dtype = self.dataset.chunks[0][name].dtype
        batches = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(filled, *rows))
        first = 0
        for chunk in self.dataset.chunks:
            part = chunk[name]
            batches[(slice(first, first + len(part)), *map(slice, part.shape[1:]))] = part
            first += len(part)
        batches[samples:] = batches[np.arange(samples, filled) % samples]
        batches.flush()
        return path


def calibration_data(
    inputs: Sequence[InputSpec],
    profiles: Sequence[Profile],
    limits: Mapping[str, int],
    data: Source | None,
    config: Build,
    *,
    version: str,
    progress: Progress,
) -> CalibrationData | None:
    """Prepare a calibrating build; None of one without a calibrator. ``version`` is TensorRT's.

    Whether a cache is of this model and data is for the caller to know. Raises ``DataError`` (data that does not fit
    the model), ``ConfigError`` (neither data nor a cache, or data and no calibrator; a batch that the model cannot
    take), ``ProfileError``.
    """
    if config.calibrator is None:
        if data is not None:
            raise ConfigError(
                "got calibration data without a calibrator. Choose one (--calibrator minmax or entropy2, TensorRT 10 "
                "only), or quantise first: `calib8 convert`."
            )
        return None
    cache = CacheFile(config.calibration_cache, cache_header(version, config.calibrator))
    batch = _batch(inputs, profiles, config.calibration_batch)
    usable = _usable(cache, progress)
    if data is None and not usable:
        raise ConfigError(
            "a calibrator needs calibration data (--data), or a calibration cache (--cache) that begins with "
            f"{cache.header!r}."
        )
    if data is None:
        shapes = {profile.name: (batch, *profile.opt[1:]) for profile in profiles}
        return CalibrationData(config.calibrator, None, shapes, batch, cache, _as_profiles(inputs, shapes, limits))
    free = tuple(replace(spec, shape=("batch", *spec.shape[1:])) for spec in inputs)
    dataset = Dataset(data, free, limits=limits, progress=progress)
    shapes = {spec.name: (batch, *_row(dataset, spec)) for spec in free}
    missing = -len(dataset) % batch
    if missing:
        progress.note(f"filled the last calibration batch up with {missing} of the first samples: batches are whole")
    return CalibrationData(config.calibrator, dataset, shapes, batch, cache, _as_profiles(inputs, shapes, limits))


def _usable(cache: CacheFile, progress: Progress) -> bool:
    """Will TensorRT read this cache instead of the data? Says so."""
    if cache.path is None or not cache.path.is_file():
        return False
    usable = cache.read() is not None
    progress.note(
        f"the scales come from {cache.path}: TensorRT calibrates only without a cache. Remove it to calibrate again"
        if usable
        else f"{cache.path} does not begin with {cache.header}: calibrating again"
    )
    return usable


def _batch(inputs: Sequence[InputSpec], profiles: Sequence[Profile], asked: int | None) -> int:
    fixed = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if fixed and asked is not None and fixed != {asked}:
        raise ConfigError(
            f"the model takes batches of {min(fixed)} only, got --calibration-batch {asked}. Leave it away."
        )
    usual = next((profile.opt[0] for profile in profiles if profile.opt), 1)
    return int(min(fixed, default=asked or usual))


def _row(dataset: Dataset, spec: InputSpec) -> Shape:
    """The shape of one sample that all of them can be padded to."""
    found = {chunk[spec.name].shape[1:] for chunk in dataset.chunks}
    longest = tuple(max(sizes) for sizes in zip(*found, strict=True))
    if len(found) > 1 and (dataset.mask is None or not spec.integer):
        raise DataError(
            f"{spec.name} comes in {len(found)} shapes, but a calibrator takes one, and the model has no mask "
            "that would mark padding. Bring the samples to one shape."
        )
    return longest


def _as_profiles(
    inputs: Sequence[InputSpec], shapes: Mapping[str, Shape], limits: Mapping[str, int]
) -> tuple[Profile, ...]:
    given = [Profile(name=name, min=shape, opt=shape, max=shape) for name, shape in shapes.items()]
    return resolve_profiles(inputs, given, limits)
