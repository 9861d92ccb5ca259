"""Whether TensorRT parses a float model at all: to know before it is calibrated, since that may take hours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from calib8.engine.build import builder_of
from calib8.engine.config import Build
from calib8.engine.failures import parse_error
from calib8.engine.process import run_worker
from calib8.graph.io import SINGLE_FILE_LIMIT, in_a_file, referring, weight_bytes
from calib8.passes.fit_tensorrt import fit_tensorrt
from calib8.progress import Progress


def require_parsable(model: ir.Model, path: Path, config: Build, progress: Progress) -> None:
    """Raise ``BuildError`` if the TensorRT that builds with ``config`` does not parse the prepared float ``model``.

    What is parsed is the graph in FP32; mapped weights of ``path`` are read where they lie. Its quantised form has the
    same operators, but for Q, DQ and what stands around them, which every TensorRT knows.
    """
    tensorrt, _, visible, _ = builder_of(config)
    with _file_of(fit_tensorrt(model.clone()), path.name) as (file, beside):
        request = {"model": str(file), "weights": beside, "family": tensorrt.family, "options": config.options()}
        outcome = run_worker(request, progress, visible)
    if not outcome.parsed:
        raise parse_error(outcome, path, tensorrt)


@contextmanager
def _file_of(model: ir.Model, name: str) -> Iterator[tuple[Path, str | None]]:
    """A temporary file of ``model``, and the path beside whose name its weights lie; None: it says so itself."""
    if weight_bytes(model, mapped=False) > SINGLE_FILE_LIMIT:
        with in_a_file(model) as file:
            yield file, None
        return
    graph, home = referring(model)
    with TemporaryDirectory(prefix="calib8-") as folder:
        file = Path(folder) / name
        file.write_bytes(graph)
        yield file, str((home or file.parent) / name)
