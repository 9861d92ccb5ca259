"""Calibrate here, or over a cluster: the ranges are the same."""

from pathlib import Path

import onnx_ir as ir

from calib8.calibration import one_pass
from calib8.calibration.config import Calibrate
from calib8.cluster.config import Ray
from calib8.data.batching import Dataset
from calib8.errors import ConfigError
from calib8.progress import Progress
from calib8.provenance import Origin


def calibrated(  # noqa: PLR0913
    model: ir.Model,
    data: Dataset,
    config: Calibrate,
    origin: Origin,
    progress: Progress,
    *,
    sample: int = 0,
    cluster: Ray | None = None,
    path: Path | str | None = None,
    unfinished: Path | None = None,
) -> one_pass.Calibration:
    """The ranges of ``model``, which lies at ``path``; see ``one_pass.calibrate`` and ``over_ray.calibrate_over``.

    Raises ``ConfigError`` for a model in memory where workers would have to find it.
    """
    if cluster is None:
        return one_pass.calibrate(model, data, config, origin, progress, sample=sample, unfinished=unfinished)
    from calib8.calibration.over_ray import calibrate_over

    if path is None:
        raise ConfigError("got a model in memory for a Ray cluster, expected the path at which its workers find it.")
    found = Path(path).absolute()  # not resolved: external data are beside a link, not beside what it leads to
    return calibrate_over(cluster, found, model, data, config, origin, progress, sample=sample, unfinished=unfinished)
