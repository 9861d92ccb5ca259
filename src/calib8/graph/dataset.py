"""Data checked against a model: the bridge between a graph and the arrays it is fed."""

import onnx_ir as ir

from calib8.data.alone import Samples, by_sample, takes_one
from calib8.data.batching import Dataset
from calib8.data.inputs import Sizes, mask_name, sizes_of
from calib8.data.sources import Source
from calib8.graph.inputs import declared_inputs
from calib8.graph.limits import dimension_limits
from calib8.graph.rows import has_rows
from calib8.graph.shapes import Footprint
from calib8.progress import Progress


def dataset_for(model: ir.Model, source: Source, progress: Progress, memory: int | None = None) -> Dataset:
    """``source`` as batches that fit ``model``, and the ``memory`` in MiB that one may take where that is given.

    Raises ``ModelError`` or ``DataError`` when they do not fit.
    """
    specs, alone = declared_inputs(model), _runs_alone(model)
    data = Dataset(source, specs, limits=dimension_limits(model), progress=progress, alone=alone)
    data.footprint, data.memory = Footprint(model).bytes_of, memory
    return data


def samples_for(model: ir.Model, source: Source, progress: Progress) -> Source:
    """``source`` with one array of samples for each input of ``model``, so that samples can be chosen.

    Raises ``ModelError`` as ``declared_inputs`` does.
    """
    return Samples(source, declared_inputs(model), progress) if _runs_alone(model) else source


def sizes_for(model: ir.Model, source: Source) -> Sizes:
    """The sizes of the named dimensions of ``model`` in the samples of ``source``."""
    specs = declared_inputs(model)
    return sizes_of(by_sample(specs) if _runs_alone(model) else specs, source.chunks())


def _runs_alone(model: ir.Model) -> bool:
    """Whether samples go through ``model`` one by one: it takes no more, or what it makes of more is not in rows.

    With a mask they do not, since padding is told by rows.
    """
    specs = declared_inputs(model)
    return takes_one(specs) or (mask_name(specs) is None and has_rows(model) is not True)
