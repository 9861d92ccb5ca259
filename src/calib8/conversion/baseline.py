"""The float engine that a quantised one is set against, where this machine has a GPU for both."""

from collections.abc import Mapping
from pathlib import Path

from calib8.data.batching import Dataset
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.sidecar import describe_engine
from calib8.errors import Calib8Error
from calib8.progress import Progress
from calib8.verification.gpu_speed import GpuSpeed, race_on_gpu


def race_baseline(
    model: Path,
    engine: Path,
    target: str,
    config: Build,
    limits: Mapping[str, int],
    dataset: Dataset,
    progress: Progress,
) -> GpuSpeed | None:
    """Build the float ``model`` in FP16 beside ``engine``, which runs here, as ``config`` says, and time the two.

    What keeps FP16 from being built or run is a note, and gives None: it says nothing of the quantised engine, whose
    report is still to be written.
    """
    try:
        baseline = build_baseline(model, engine, target, config, limits, progress)
        return race_on_gpu(baseline, engine, dataset, progress)
    except Calib8Error as error:
        progress.note(f"nothing was timed against FP16: {error}")
        return None


def build_baseline(
    model: Path, engine: Path, target: str, config: Build, limits: Mapping[str, int], progress: Progress
) -> Path:
    """Build the float ``model`` in FP16 beside ``engine``, for its ``target`` and shapes. Raises as builds do.

    What FP16 does not hold, by the ranges there, stays FP32 as in ``engine``.
    """
    baseline = engine.with_name(f"{engine.stem.removesuffix(f'.{target}')}-baseline-fp16.engine")
    shapes = describe_engine(engine).profiles  # of which the float model, without calibration data, may not know
    here = {"targets": (target,), "log": None, "shapes": shapes}
    in_float = config.model_copy(update={"precision": "fp16", "ranges": engine.with_name("ranges.json"), **here})
    build_engine(model, baseline, in_float, limits=limits, progress=progress)
    return baseline
