"""What ``calib8 run`` does: an artefact that runs over a folder of arrays."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib8.data.array_files import save_array
from calib8.data.sources import Data, open_source
from calib8.errors import ConfigError
from calib8.files import require_distinct, require_folder, require_path
from calib8.progress import Progress, Quiet
from calib8.runtime.feed import feed_of
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import open_artefact
from calib8.runtime.run_all import run_all


def run(
    artefact: Path | str, data: Data, *, runtime: CpuRuntime = "auto", progress: Progress | None = None
) -> dict[str, NDArray[np.generic]]:
    """Run an artefact over arrays; every output [N, ...] in the order of the samples.

    Outputs with a sequence axis are padded with zeros to the longest batch. Raises ``DataError`` if they differ
    in any other dimension.

    Example:

        >>> outputs = calib8.run("model.int8.onnx", "held_out")
        >>> outputs["last_hidden_state"].shape[0]
        24
    """
    progress = progress or Quiet()
    path = require_path(artefact)
    dataset = feed_of(path, open_source(data), progress)
    with open_artefact(path, runtime) as opened:
        return run_all(opened, dataset, progress)


def run_to_folder(
    artefact: Path | str,
    data: Data,
    output: Path | str,
    *,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> dict[Path, tuple[int, ...]]:
    """``run``, every output written to ``output`` as ``<name>.npy``. Returns file -> shape.

    Example:

        >>> written = calib8.run_to_folder("model.int8.onnx", "held_out", "outputs")
        >>> [path.name for path in written]
        ['last_hidden_state.npy']
    """
    if isinstance(data, (str, Path)):
        require_distinct(output, data)  # among the model's inputs, its outputs would be taken for such
    require_folder(output)
    written: dict[Path, tuple[int, ...]] = {}
    for name, array in run(artefact, data, runtime=runtime, progress=progress).items():
        path = Path(output) / f"{name.replace('/', '_')}.npy"
        if path in written:
            raise ConfigError(f"two outputs would be written to {path}. Run the model through calib8.run instead.")
        save_array(path, array)
        written[path] = array.shape
    return written
