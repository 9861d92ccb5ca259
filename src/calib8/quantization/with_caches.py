"""What ``calib8 migrate`` and ``calib8 export-cache`` do: a model from a cache, and a cache from a model."""

from dataclasses import replace
from pathlib import Path

from calib8.caches.cache import DEFAULT_VERSION, Algorithm, Cache
from calib8.caches.record import record_path, require_fit, save_with_record
from calib8.data.sources import Data
from calib8.files import named, require_separate
from calib8.graph.io import SOURCE_SHA256, load, save
from calib8.progress import Progress, Quiet
from calib8.quantization.config import Migrate
from calib8.quantization.export_cache import Exported, exported
from calib8.quantization.migrate import Migration
from calib8.quantization.migrate import migrate as rewritten
from calib8.text.text_source import calibration_source


def migrate(
    cache: Path | str,
    model: Path | str,
    output: Path | str,
    config: Migrate | None = None,
    *,
    data: Data | None = None,
    progress: Progress | None = None,
) -> Migration:
    """Turn a calibration cache of TensorRT 8 to 10 and its FP32 model into an explicitly quantised (Q/DQ) model.

    The scales of the cache are kept to the bit; ``export_cache`` gives it back. ``data``: some samples, to hold the
    ranges against, and to see what FP16 does not hold. Raises ``CacheError`` for a cache that is no cache, is of
    another model, holds 1 / scale, or differs a thousand times from what the data shows.

    Example:

        >>> migration = calib8.migrate("calibration.cache", "model.onnx", "migrated.onnx", calib8.Migrate(strict=True))
        >>> f"{migration.int8_ops} of {migration.weighted_ops}"
        '6 of 6'
    """
    require_separate([output], [cache, model, *named(data)])
    config, progress = Migrate.of(config), progress or Quiet()
    source = calibration_source(data, model, progress) if data is not None else None
    scales, loaded = Cache.load(Path(cache)), load(model)
    origin = require_fit(Path(cache), loaded.metadata_props[SOURCE_SHA256], progress)
    quantised, migration = rewritten(loaded, scales, config, origin, progress, source)
    save(quantised, output)
    return migration


def export_cache(
    source: Path | str,
    output: Path | str,
    *,
    version: str | None = None,
    algorithm: Algorithm | None = None,
) -> Exported:
    """Write a calibration cache for TensorRT 8 to 10 from ``ranges.json``, a Q/DQ model (``.onnx``), or another cache.

    version: of the TensorRT that reads it, "10.16.0" or "101600"; algorithm: that of its calibrator. TensorRT refuses a
        cache in which either differs. By default 101600, and what fits the source.
    What it was made from goes to ``<output>.json``. Raises ``CacheError`` if the source has no scale to export.

    Example:

        >>> exported = calib8.export_cache("ranges.json", "calibration.cache", version="10.16.0")
        >>> exported.cache.header
        'TRT-101600-MinMaxCalibration'
    """
    require_separate([output, record_path(Path(output))], [source])
    found = exported(Path(source))
    cache = found.cache.with_header(version or DEFAULT_VERSION, algorithm)
    save_with_record(cache, Path(output), found.origin)
    return replace(found, cache=cache)
