"""What ranges are made from, so that nothing is calibrated twice and nothing stale is taken."""

from importlib.metadata import version
from pathlib import Path

from calib8.calibration.config import Calibrate
from calib8.calibration.ranges import Ranges
from calib8.errors import RangesError
from calib8.progress import Progress
from calib8.provenance import Origin


def origin_of(model_sha256: str, data_sha256: str, config: Calibrate) -> Origin:
    """What ranges made now would be made from."""
    settings = config.model_dump()
    del settings["memory"]  # it has no influence
    if config.observer != "percentile":
        del settings["percentile"]  # nor has this
    if config.tensors == "weighted":
        del settings["tensors"]  # ranges of before there was a choice are of these
    tools = {name: version(name) for name in ("calib8", "onnxruntime")}
    return Origin(model_sha256=model_sha256, data_sha256=data_sha256, settings=settings, tools=tools)


def reusable(path: Path | None, origin: Origin, progress: Progress) -> Ranges | None:
    """The ranges at ``path`` if they were made from ``origin``; otherwise None, and a note that says why."""
    if path is None or not path.exists():
        return None
    try:
        previous = Ranges.load_unchanged(path)
    except RangesError as error:
        progress.note(f"calibrating again: {error}")
        return None
    if previous is None:
        progress.note(f"calibrating again: {path} was changed after calib8 wrote it")
        return None
    if changes := previous.origin.changes(origin):
        progress.note(f"calibrating again: {', '.join(changes)} changed since {path} was made")
        return None
    progress.note(f"ranges are up to date: reused {path} ({previous.samples} samples, same model, data and settings)")
    return previous


def pass_key(origin: Origin, sample: int, histograms: bool) -> dict[str, object]:
    """What tells a pass from others in unfinished work; whether it ran over a cluster makes no difference."""
    return {"origin": origin.model_dump(), "sample": sample, "histograms": histograms}
