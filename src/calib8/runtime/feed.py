"""The data of an artefact, checked against what it says of its inputs: an ONNX graph or an engine's sidecar."""

from pathlib import Path

from calib8.data.batching import Dataset
from calib8.data.sources import Source
from calib8.engine.sidecar import describe_engine
from calib8.graph.dataset import dataset_for
from calib8.graph.io import load
from calib8.progress import Progress
from calib8.runtime.contract import contract_of_engine
from calib8.runtime.open import is_engine


def feed_of(path: Path, source: Source, progress: Progress) -> Dataset:
    """``source`` as batches that fit the ONNX model or engine at ``path``. Raises ``DataError`` if they do not."""
    if not is_engine(path):
        return dataset_for(load(path), source, progress)
    return Dataset(source, contract_of_engine(describe_engine(path)).specs, progress=progress)
