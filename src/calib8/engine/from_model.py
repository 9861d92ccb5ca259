"""What ``calib8 build`` does: engines from an ONNX file, with the calibration cache that they need."""

from contextlib import ExitStack
from pathlib import Path

from calib8.caches.record import lent_to_calibrator
from calib8.data.sources import Data, open_source
from calib8.engine.build import build_engine
from calib8.engine.built import BuiltEngine
from calib8.engine.config import Build
from calib8.files import named, require_separate
from calib8.graph.io import load, source_sha256
from calib8.graph.limits import dimension_limits
from calib8.progress import Progress, Quiet
from calib8.provenance import calibrator_origin


def build(
    model: Path | str,
    output: Path | str,
    config: Build | None = None,
    *,
    data: Data | None = None,
    progress: Progress | None = None,
) -> list[BuiltEngine]:
    """Build one TensorRT engine per target from an ONNX file, and check its plan. Raises ``PlanMismatch``.

    data: for a config with a calibrator (TensorRT 10 only), which finds the INT8 scales of an FP32 model. Raises
    ``CacheError`` if the config's calibration cache was made from another model or other data, as far as is known.

    Example:

        >>> engines = calib8.build("model.int8.onnx", "model-int8.engine", calib8.Build(targets="sm86"))
        >>> [(engine.path.name, engine.target) for engine in engines]
        [('model-int8.engine', 'sm86')]
    """
    config, progress, source = Build.of(config), progress or Quiet(), open_source(data) if data is not None else None
    cache = config.calibration_cache
    require_separate([output, config.timing_cache, cache, config.log], [model, *named(config.ranges)])
    limits = dimension_limits(load(model))
    with ExitStack() as lent:
        if cache is not None:
            known = source.fingerprint() if source is not None else ""
            origin = calibrator_origin(source_sha256(Path(model)), known, str(config.calibrator))
            lent.enter_context(lent_to_calibrator(cache, origin, progress))
        return build_engine(Path(model), Path(output), config, data=source, limits=limits, progress=progress)
