"""From end to end: a model and calibration data in, the quantised model or the ranking of its ops out."""

from pathlib import Path

import onnx_ir as ir

from calib8.calibration import run as calibration
from calib8.calibration.config import Calibrate
from calib8.calibration.ranges import Ranges
from calib8.data.sources import Source
from calib8.data.split import split
from calib8.errors import ConfigError
from calib8.graph.dataset import dataset_for
from calib8.graph.io import SOURCE_SHA256, load
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.progress import Progress
from calib8.quantization.apply import quantize_by_ranges
from calib8.quantization.config import PROBED, Calibrated
from calib8.quantization.policy import selected
from calib8.quantization.probe import probe_of
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.quantise import Case, case_of, quantise_guarded, rows_to_sample
from calib8.quantization.sensitivity import Measuring, Sensitivity, rank


def quantise(
    model: ir.Model,
    ranges: Ranges,
    config: Calibrated,
    data: Source | None,
    progress: Progress,
    *,
    folder: Path | None = None,
    unfinished: Path | None = None,
) -> tuple[ir.Model, QuantPlan]:
    """A quantised clone of ``model`` and its plan: by a second pass over the calibration ``data``, or by ranges alone.

    ``folder`` holds the model's pooling config, if it is a sentence encoder; ``unfinished`` what was done before.
    """
    if data is None:
        return quantize_by_ranges(model, ranges, config)
    selected(model, config)  # a glob that matches nothing is told before the pass
    case = case_of(model, ranges, data, config, progress, unfinished)
    return quantise_guarded(case, probe_of(model, data, PROBED, folder), progress)


def measure_sensitivity(
    path: Path, data: Source, config: Calibrated, samples: int | None, progress: Progress, calibrate: Calibrate
) -> Sensitivity:
    """What each op that ``config`` selects costs the output of the model at ``path``.

    Calibrated as ``calibrate`` says on seven eighths of ``data``, measured on ``samples`` (32 if None) of the rest.
    Raises ``ConfigError`` if that leaves nothing to measure.
    """
    if samples is not None and samples < 1:
        raise ConfigError(f"{samples} samples to measure on; expected at least 1.")
    model = prepare(load(path))
    names = selected(model, config)
    if weighted_ops(model) and not names:
        raise ConfigError("no op is left to measure: --exclude matches all that --include does. Change either.")
    fitted, held_back = split(data)
    origin = calibration.origin_of(model.metadata_props[SOURCE_SHA256], fitted.fingerprint(), calibrate)
    rows = rows_to_sample(config)
    dataset = dataset_for(model, fitted, progress)
    found = calibration.calibrate(model, dataset, calibrate, origin, progress, sample=rows)
    case = Case(model, found.ranges, found.statistics, config)
    solutions = case.solutions(progress)
    probe = probe_of(model, held_back, samples or PROBED, path.parent)
    described = {
        op.name: (op.kind, str(solutions[op.name].recipe) if op.name in solutions else None)
        for op in weighted_ops(model)
        if op.name in names
    }
    with case.switchboard(names, solutions) as board:
        return rank(Measuring(board, probe), described, progress)
