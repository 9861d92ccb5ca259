"""What each op costs: the model's own output with that op alone quantised, and with it alone in float.

One run of a few samples for each, on a model that holds every op in both forms (see ``switchboard``).
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.calibration.origin import origin_of
from calib8.data.sources import Data, Source
from calib8.data.split import split
from calib8.errors import ConfigError
from calib8.files import named, require_separate, write_json
from calib8.graph.dataset import dataset_for, samples_for
from calib8.graph.io import SOURCE_SHA256, load
from calib8.graph.weighted import weighted_ops
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import prepare
from calib8.precision import Precision
from calib8.progress import Progress, Quiet
from calib8.quantization.case import Case, rows_to_sample
from calib8.quantization.config import PROBED, Quantize
from calib8.quantization.measuring import Measuring
from calib8.quantization.policy import candidates
from calib8.quantization.probe import probe_of
from calib8.text.text_source import calibration_source


class OpSensitivity(BaseModel):
    """Mean score of the model's output beside FP32.

    alone: with this op quantised and all others in float. spared: with this op in float and all others quantised.
    recipe: how it was quantised for this, None if by ranges alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    kind: str
    recipe: str | None
    alone: float
    spared: float


class Sensitivity(BaseModel):
    """Every op that can be quantised, the costliest first; mean scores with all ops in float, and all quantised.

    ``score`` says what they are, by the kind of the model's output (see ``verification.kinds``). Embedding tables are
    int8 in both, where they are asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.sensitivity/1"] = "calib8.sensitivity/1"
    #: What the ops were quantised to.
    precision: Precision = "int8"
    score: str = "cosine"
    samples: int
    all_float: float
    all_int8: float
    ops: tuple[OpSensitivity, ...]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())


def rank(measuring: Measuring, described: dict[str, tuple[str, str | None]], progress: Progress) -> Sensitivity:
    """Every op of the switchboard; ``described`` holds kind and recipe by name."""
    names = measuring.board.names
    everything = frozenset(names)
    ops = []
    progress.update("sensitivity", 0, len(names))
    for done, name in enumerate(names, start=1):
        alone, spared = measuring.score({name}), measuring.score(everything - {name})
        kind, recipe = described[name]
        ops.append(OpSensitivity(node=name, kind=kind, recipe=recipe, alone=alone, spared=spared))
        progress.update("sensitivity", done, len(names))
    return Sensitivity(
        precision=measuring.board.precision,
        score=measuring.probe.told,
        samples=len(measuring.probe.data),
        all_float=measuring.score(()),
        all_int8=measuring.score(everything),
        ops=tuple(sorted(ops, key=lambda op: op.alone)),
    )


def sensitivity(
    model: Path | str,
    data: Data,
    config: Quantize | None = None,
    *,
    calibrate: Calibrate | None = None,
    output: Path | str | None = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Rank every weighted op by what it costs the model's output: alone quantised, and alone in float.

    Every eighth of the calibration samples is held back to measure on, at most ``samples`` of them. ``config`` says
    which ops, and how they are quantised, ``calibrate`` how their ranges are found.

    Example:

        >>> found = calib8.sensitivity("model.onnx", "calib_data", samples=8)
        >>> len(found.ops), found.samples
        (6, 8)
    """
    if output is not None:
        require_separate([output], [model, *named(data)])
    progress = progress or Quiet()
    source = calibration_source(data, model, progress)
    found = _measured(Path(model), source, Quantize.of(config), samples, progress, Calibrate.of(calibrate))
    if output is not None:
        found.save(Path(output))
    return found


def _measured(
    path: Path, data: Source, config: Quantize, samples: int | None, progress: Progress, calibrate: Calibrate
) -> Sensitivity:
    """What each op that ``config`` selects costs the output of the model at ``path``.

    Calibrated as ``calibrate`` says on seven eighths of ``data``, measured on ``samples`` (32 if None) of the rest.
    Raises ``ConfigError`` if that leaves nothing to measure.
    """
    if samples is not None and samples < 1:
        raise ConfigError(f"{samples} samples to measure on; expected at least 1.")
    model = prepare(load(path))
    names = candidates(model, config)
    if weighted_ops(model) and not names:
        raise ConfigError(
            "no op is left to measure: --exclude matches all that --include does, or --optimize latency leaves the "
            "rest in float. Change one of them."
        )
    fitted, held_back = split(samples_for(model, data, progress))
    origin = origin_of(model.metadata_props[SOURCE_SHA256], fitted.fingerprint(), calibrate)
    rows = rows_to_sample(config)
    dataset = dataset_for(model, fitted, progress)
    found = one_pass.calibrate(model, dataset, calibrate, origin, progress, sample=rows)
    case = Case(plain_convolutions(model), found.ranges, found.statistics, config)
    solutions = case.solutions(progress)
    probe = probe_of(model, held_back, samples or PROBED, path.parent, config.kinds)
    described = {
        op.name: (op.kind, str(solutions[op.name].recipe) if op.name in solutions else None)
        for op in weighted_ops(model)
        if op.name in names
    }
    with case.switchboard(names, solutions) as board:
        return rank(Measuring(board, probe), described, progress)
