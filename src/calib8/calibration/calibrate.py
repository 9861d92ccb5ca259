"""What ``calib8 calibrate`` does: the ranges of a model's tensors, and a calibration cache of them."""

from pathlib import Path

import onnx_ir as ir

from calib8.caches.cache import DEFAULT_VERSION, version_of
from calib8.caches.record import record_path, save_with_record
from calib8.calibration.anywhere import calibrated
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of, reusable
from calib8.calibration.ranges import Ranges
from calib8.cluster.config import Ray
from calib8.data.sources import Data
from calib8.files import named, require_separate
from calib8.graph.dataset import dataset_for
from calib8.graph.io import SOURCE_SHA256, source_sha256
from calib8.passes.prepare import load
from calib8.progress import Progress, Quiet
from calib8.resume import beside, discard, unfinished_work
from calib8.text.text_source import calibration_source


def calibrate(  # noqa: PLR0913
    model: ir.Model | Path | str,
    data: Data,
    config: Calibrate | None = None,
    *,
    output: Path | str | None = None,
    cache: Path | str | None = None,
    cache_version: str | None = None,
    cluster: Ray | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Run the model once over ``data`` and return the range of every tensor that INT8 needs.

    output: ranges file. If it is there and was made from the same model, data and settings, it is returned at once.
    cache: also write the ranges as a TensorRT calibration cache, for ``cache_version`` (such as "101600"), and what
        they were made from to ``<cache>.json``.
    cluster: run the model there, see ``calibration.over_ray``; ``model`` must be a path. The ranges are the same.

    Example:

        >>> ranges = calib8.calibrate("model.onnx", "calib_data", output="ranges.json", cache="calibration.cache")
        >>> ranges.samples
        64
    """
    if cluster is not None and isinstance(data, (str, Path)):
        data = Path(data).absolute()  # workers are in another folder
    config, progress = Calibrate.of(config), progress or Quiet()
    source = calibration_source(data, model, progress)
    path = Path(output) if output is not None else None
    version = version_of(cache_version or DEFAULT_VERSION)  # before the pass, which takes long
    require_separate([output, cache, record_path(Path(cache)) if cache is not None else None], named(model, data))
    if cluster is None and isinstance(model, (str, Path)):
        model = load(model)
    known = source_sha256(model) if isinstance(model, (str, Path)) else model.metadata_props.get(SOURCE_SHA256, "")
    origin = origin_of(known, source.fingerprint(), config)
    ranges = reusable(path, origin, progress) if known else None
    if ranges is not None and path is not None:
        discard(beside(path))
    elif ranges is None:
        with unfinished_work(beside(path) if path is not None else None) as unfinished:
            where, loaded = (None, model) if isinstance(model, ir.Model) else (model, load(model))
            dataset = dataset_for(loaded, source, progress, config.memory)
            ranges = calibrated(
                loaded, dataset, config, origin, progress, cluster=cluster, path=where, unfinished=unfinished
            ).ranges
            if path is not None:
                ranges.save(path)
    if cache is not None:
        save_with_record(ranges.cache(version), Path(cache), ranges.origin)
    return ranges
