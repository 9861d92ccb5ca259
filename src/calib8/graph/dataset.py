"""Data checked against a model: the bridge between a graph and the arrays it is fed."""

import onnx_ir as ir

from calib8.data.batching import Dataset
from calib8.data.sources import Source
from calib8.graph.inputs import input_specs
from calib8.graph.limits import dimension_limits
from calib8.progress import Progress


def dataset_for(model: ir.Model, source: Source, progress: Progress) -> Dataset:
    """``source`` as batches that fit ``model``. Raises ``ModelError`` or ``DataError`` when they do not fit."""
    return Dataset(source, input_specs(model), limits=dimension_limits(model), progress=progress)
