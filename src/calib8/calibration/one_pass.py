"""One streaming pass over the data: statistics, and the ranges that an observer makes of them."""

import math
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from pydantic import ValidationError

from calib8.calibration.checkpoint import checkpoint
from calib8.calibration.collect import SHOWN, collect, positions
from calib8.calibration.config import Calibrate
from calib8.calibration.every import constant_ranges, with_dropped_identities
from calib8.calibration.observers import observer_for
from calib8.calibration.origin import pass_key
from calib8.calibration.ranges import Ranges, TensorRange
from calib8.calibration.reached import Statistics, unfit
from calib8.calibration.statistics import TensorStatistics, quantile
from calib8.config import first_problem
from calib8.data.batching import Dataset
from calib8.errors import RangesError
from calib8.graph.left_out import require_weighted_ops
from calib8.progress import Progress
from calib8.provenance import Origin


@dataclass(frozen=True)
class Calibration:
    """What one streaming pass found: the ranges to keep, and the statistics behind them."""

    ranges: Ranges
    statistics: Statistics


def calibrate(
    model: ir.Model,
    data: Dataset,
    config: Calibrate,
    origin: Origin,
    progress: Progress,
    *,
    sample: int = 0,
    unfinished: Path | None = None,
) -> Calibration:
    """Ranges of the tensors of the prepared ``model`` that ``config`` asks for; one pass over ``data``.

    sample: rows of each tensor to keep in the statistics. unfinished: folder to keep what is done in, and to go on from
    if it was kept for the same pass, see ``calib8.resume``.
    """
    require_weighted_ops(model)
    histograms = observer_for(config.observer, config.percentile).histogram
    with checkpoint(unfinished, pass_key(origin, sample, histograms), progress) as kept:
        statistics = collect(
            model, data, progress, sample=sample, histograms=histograms, tensors=config.tensors, checkpoint=kept
        )
    return Calibration(ranges_of(model, statistics, data, config, origin, progress), statistics)


def ranges_of(
    model: ir.Model,
    statistics: Statistics,
    data: Dataset,
    config: Calibrate,
    origin: Origin,
    progress: Progress,
) -> Ranges:
    """What the observer makes of ``statistics``, collected from all of ``data``."""
    observer = observer_for(config.observer, config.percentile)
    finite = _finite(statistics, progress)
    tensors = {}
    for done, (name, seen) in enumerate(finite.items(), start=1):
        tensors[name] = _range(name, seen, observer.amax(seen))
        progress.update(f"{config.observer} ranges", done, len(finite))
    if config.tensors == "all":
        tensors = constant_ranges(model) | with_dropped_identities(model, tensors)
    ranges = Ranges(
        origin=origin,
        samples=len(data),
        positions=positions(data),
        tensors=tensors,
        sizes=dict(data.sizes()),
        beyond=unfit(model, statistics),
    )
    _note_poor_data(ranges, progress)
    return ranges


def _finite(statistics: dict[str, TensorStatistics], progress: Progress) -> dict[str, TensorStatistics]:
    finite = {name: seen for name, seen in statistics.items() if math.isfinite(seen.amax)}
    if infinite := [name for name in statistics if name not in finite]:
        more = ", …" if len(infinite) > SHOWN else ""
        progress.note(
            f"{len(infinite)} of {len(statistics)} tensors ({', '.join(infinite[:SHOWN])}{more}) became NaN or "
            "infinite, as masks do. No INT8 op reads them, and they have no range"
        )
    return finite


def _note_poor_data(ranges: Ranges, progress: Progress) -> None:
    if ranges.samples == 1:
        progress.note("calibrated on a single sample: whatever is larger in other data will be clipped. Give a hundred")
    zero = [name for name, tensor in ranges.tensors.items() if tensor.minimum == tensor.maximum == 0]
    if zero:
        more = ", …" if len(zero) > SHOWN else ""
        progress.note(
            f"calibration saw nothing but zero in {len(zero)} of {len(ranges.tensors)} tensors "
            f"({', '.join(zero[:SHOWN])}{more}): what reads them stays in float. Give data as in use"
        )


def _range(name: str, seen: TensorStatistics, amax: float) -> TensorRange:
    typical = quantile(seen.rows, 0.5)
    try:
        return TensorRange(amax=amax, minimum=seen.minimum, maximum=seen.maximum, typical=typical)
    except ValidationError as error:
        raise RangesError(f"the range of {name!r} is none: {first_problem(error)}. Calibrate again.") from None
