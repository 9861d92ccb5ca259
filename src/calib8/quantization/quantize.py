"""What ``calib8 quantize`` does."""

from pathlib import Path

import onnx_ir as ir

from calib8.calibration.ranges import Ranges
from calib8.data.sources import Data, Source, open_source
from calib8.files import named, require_separate
from calib8.graph.io import save
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import load
from calib8.progress import Progress, Quiet
from calib8.quantization.apply import quantize_by_ranges
from calib8.quantization.case import case_of
from calib8.quantization.config import PROBED, Quantize
from calib8.quantization.guard import quantise_guarded
from calib8.quantization.policy import make_plan, selected
from calib8.quantization.probe import probe_of
from calib8.quantization.quant_plan import QuantPlan
from calib8.resume import beside, unfinished_work
from calib8.text.text_source import calibration_source


def plan(model: ir.Model, ranges: Ranges, config: Quantize | None = None) -> QuantPlan:
    """Decide for every weighted op from ``ranges`` alone whether it becomes INT8 (or FP8), and say why.

    Example:

        >>> model = calib8.load("model.onnx")
        >>> decided = calib8.plan(model, calib8.calibrate(model, "calib_data"))
        >>> decided.nodes("float")
        []
    """
    return make_plan(plain_convolutions(model), ranges, Quantize.of(config))


def quantize(
    model: ir.Model,
    ranges: Ranges,
    config: Quantize | None = None,
    *,
    data: Data | None = None,
    progress: Progress | None = None,
) -> ir.Model:
    """Return an explicitly quantised (Q/DQ) clone of ``model``: to INT8, or to the ``precision`` of ``config``.

    With the calibration ``data``, activations with outliers are conditioned (for INT8), weights rounded with GPTQ and
    the result measured at the model's output, so that far more ops can be INT8; that takes a second pass over it.
    Without, ranges alone decide.

    Example:

        >>> model = calib8.load("model.onnx")
        >>> ranges = calib8.calibrate(model, "calib_data")
        >>> int8 = calib8.quantize(model, ranges, calib8.Int8(remainder="fp32"), data="calib_data")
        >>> sum(node.op_type == "QuantizeLinear" for node in int8.graph) > 0
        True
    """
    source = open_source(data) if data is not None else None
    return _quantised(model, ranges, Quantize.of(config), source, progress or Quiet())[0]


def quantize_file(
    model: Path | str,
    ranges: Path | str,
    output: Path | str,
    config: Quantize | None = None,
    *,
    data: Data | None = None,
    plan: Path | str | None = None,
    progress: Progress | None = None,
) -> QuantPlan:
    """``load``, ``quantize`` and ``save`` in one: files in, files out. Returns the plan that was followed.

    Example:

        >>> decided = calib8.quantize_file("model.onnx", "ranges.json", "model.int8.onnx", data="calib_data")
        >>> len(decided.nodes("int8"))
        6
    """
    require_separate([output, plan], [model, ranges, *named(data)])
    config, progress, calibrated = Quantize.of(config), progress or Quiet(), Ranges.load(Path(ranges))
    source = calibration_source(data, model, progress) if data is not None else None
    with unfinished_work(beside(Path(output)) if data is not None else None) as unfinished:
        folder = Path(model).parent
        quantised, decided = _quantised(
            load(model), calibrated, config, source, progress, folder=folder, unfinished=unfinished
        )
        save(quantised, output)
        if told := decided.describe_float():
            progress.note(told)
        if plan is not None:
            decided.save(Path(plan))
    return decided


def _quantised(
    model: ir.Model,
    ranges: Ranges,
    config: Quantize,
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
    return quantise_guarded(case, probe_of(model, data, PROBED, folder, config.kinds), progress)
