"""What calib8 can do, one function per command. Composition only: every step lives in a module of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from calib8.calibration.config import Calibrate
from calib8.data.sources import Batches, NpyFolder, NpzFile, Source, open_source
from calib8.data.text import Prepare, TextTokenizer
from calib8.errors import ConfigError
from calib8.files import require_distinct, save_array
from calib8.planning.config import Int8
from calib8.progress import Progress, Quiet
from calib8.runtime.names import CpuRuntime
from calib8.verification.config import Verify

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from calib8.calibration.ranges import Ranges
    from calib8.conversion import Convert
    from calib8.engine.build import BuiltEngine
    from calib8.engine.config import Build
    from calib8.planning.quant_plan import QuantPlan
    from calib8.report.report import Report
    from calib8.runtime.base import Runtime
    from calib8.search.sensitivity import Sensitivity
    from calib8.verification.compare import Comparison

Data: TypeAlias = "Path | str | Source | Iterable[Mapping[str, NDArray[np.generic]]]"

npy_folder, npz_file, batches = NpyFolder, NpzFile, Batches


def fetch(name: str, to: Path | str, *, progress: Progress | None = None) -> Path:
    """Fetch a reference model, its tokenizer and pooling config into the folder ``to``. Raises ``FetchError``."""
    from calib8.models.fetch import fetch as fetch_model

    return fetch_model(name, Path(to), progress=progress or Quiet())


def prepare(
    texts: Sequence[Path | str],
    tokenizer: Path | str,
    output: Path | str,
    config: Prepare | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Tokenise text files (one sentence a line) into a calibration folder of int64 arrays [N, S]."""
    from calib8.data.text import prepare as prepare_text

    own = TextTokenizer(Path(tokenizer), (config or Prepare()).max_length)
    return prepare_text([Path(text) for text in texts], own, Path(output), progress or Quiet())


def load(path: Path | str) -> ir.Model:
    """Load an ONNX model and bring it into the form the other functions expect. Raises ``ModelError``."""
    from calib8.graph.io import load as load_model
    from calib8.passes.prepare import prepare as prepare_model

    return prepare_model(load_model(path))


def save(model: ir.Model, path: Path | str) -> Path:
    """Write an ONNX model atomically."""
    from calib8.graph.io import save as save_model

    return save_model(model, path)


def calibrate(
    model: ir.Model | Path | str,
    data: Data,
    config: Calibrate | None = None,
    *,
    output: Path | str | None = None,
    cache: Path | str | None = None,
    cache_version: str | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Run the model once over ``data`` and return the range of every tensor that INT8 needs.

    output: ranges file. If it is there and was made from the same model, data and settings, it is returned at once.
    cache: also write the ranges as a TensorRT calibration cache, for ``cache_version`` (such as "101600").
    """
    from calib8.calibration import run
    from calib8.calibration.cache import ALGORITHMS, DEFAULT_VERSION, write_cache
    from calib8.graph.dataset import dataset_for
    from calib8.graph.io import SOURCE_SHA256, source_sha256

    config, progress, source = config or Calibrate(), progress or Quiet(), open_source(data)
    path = Path(output) if output is not None else None
    inputs = [model] if isinstance(model, (str, Path)) else []
    for written in (output, cache):
        if written is not None:
            require_distinct(written, *inputs)
    if isinstance(model, (str, Path)):
        known = source_sha256(Path(model)) if Path(model).is_file() else ""
    else:
        known = model.metadata_props.get(SOURCE_SHA256, "")
    origin = run.origin_of(known, source.fingerprint(), config)
    ranges = run.reusable(path, origin, progress) if known else None
    if ranges is None:
        loaded = load(model) if isinstance(model, (str, Path)) else model
        ranges = run.calibrate(loaded, dataset_for(loaded, source, progress), config, origin, progress).ranges
        if path is not None:
            ranges.save(path)
    if cache is not None:
        version = cache_version or DEFAULT_VERSION
        write_cache(Path(cache), ranges.amax(), algorithm=ALGORITHMS[config.observer], version=version)
    return ranges


def plan(model: ir.Model, ranges: Ranges, config: Int8 | None = None) -> QuantPlan:
    """Decide for every weighted op from ``ranges`` alone whether it becomes INT8, and say why."""
    from calib8.planning.policy import make_plan

    return make_plan(model, ranges, config or Int8())


def quantize(
    model: ir.Model,
    ranges: Ranges,
    config: Int8 | None = None,
    *,
    data: Data | None = None,
    progress: Progress | None = None,
) -> ir.Model:
    """Return an explicitly quantised (Q/DQ) clone of ``model``.

    With the calibration ``data``, activations with outliers are conditioned, weights rounded with GPTQ and the result
    measured at the model's output, so that far more ops can be INT8; that takes a second pass over it. Without, ranges
    alone decide.
    """
    return _quantize(model, ranges, config or Int8(), data, progress or Quiet())[0]


def quantize_file(
    model: Path | str,
    ranges: Path | str,
    output: Path | str,
    config: Int8 | None = None,
    *,
    data: Data | None = None,
    plan: Path | str | None = None,
    progress: Progress | None = None,
) -> QuantPlan:
    """``load``, ``quantize`` and ``save`` in one: files in, files out. Returns the plan that was followed."""
    from calib8.calibration.ranges import Ranges

    require_distinct(output, model, ranges, *([plan] if plan is not None else []))
    calibrated = Ranges.load(Path(ranges))
    folder = Path(model).parent
    quantised, decided = _quantize(load(model), calibrated, config or Int8(), data, progress or Quiet(), folder)
    save(quantised, output)
    if plan is not None:
        decided.save(Path(plan))
    return decided


def _quantize(
    model: ir.Model,
    ranges: Ranges,
    config: Int8,
    data: Data | None,
    progress: Progress,
    folder: Path | None = None,
) -> tuple[ir.Model, QuantPlan]:
    """``folder`` holds the model's pooling config, if it is a sentence encoder."""
    from calib8.planning.apply import quantize_by_ranges
    from calib8.search.probe import probe_of
    from calib8.search.quantise import PROBED, case_of, quantise_guarded

    if data is None:
        return quantize_by_ranges(model, ranges, config)
    source = open_source(data)
    case = case_of(model, ranges, source, config, progress)
    return quantise_guarded(case, probe_of(model, source, PROBED, folder), progress)


def sensitivity(
    model: Path | str,
    data: Data,
    config: Int8 | None = None,
    *,
    output: Path | str | None = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Rank every weighted op by what it costs the model's output: alone in INT8, and alone in float.

    Every eighth of the calibration samples is held back to measure on, at most ``samples`` of them. ``config`` says
    which ops, and how they are quantised.
    """
    from calib8.search.run import measure_sensitivity

    if output is not None:
        require_distinct(output, model)
    found = measure_sensitivity(Path(model), open_source(data), config or Int8(), samples, progress or Quiet())
    if output is not None:
        found.save(Path(output))
    return found


def build(
    model: Path | str,
    output: Path | str,
    config: Build | None = None,
    *,
    data: Data | None = None,
    progress: Progress | None = None,
) -> list[BuiltEngine]:
    """Build one TensorRT engine per target from an ONNX file, and check its plan. Raises ``PlanMismatch``.

    data: for a config with a calibrator (TensorRT 10 only), which finds the INT8 scales of an FP32 model.
    """
    from calib8.engine.build import build_engine
    from calib8.engine.config import Build
    from calib8.graph.io import load as load_model
    from calib8.graph.limits import dimension_limits

    config, source = config or Build(), open_source(data) if data is not None else None
    for written in (output, config.timing_cache, config.calibration_cache):
        if written is not None:
            require_distinct(written, model)
    limits = dimension_limits(load_model(model))
    return build_engine(Path(model), Path(output), config, data=source, limits=limits, progress=progress or Quiet())


def open(
    artefact: Path | str,
    *,
    runtime: CpuRuntime = "auto",
    threads: int | None = None,
    contexts: int | None = None,
    cuda_graphs: int | None = None,
) -> Runtime:
    """Open an ONNX model on the CPU or an engine on the GPU; use the result in a ``with`` block.

    threads: of the CPU, for a model. contexts: runs that an engine can have under way (1), for several threads or for
    ``submit``. cuda_graphs: how many each context keeps (8), 0 for none. Raises ``ConfigError`` for one that does not
    apply.
    """
    from calib8.runtime.open import open_artefact

    return open_artefact(Path(artefact), runtime, threads=threads, contexts=contexts, cuda_graphs=cuda_graphs)


def run(
    artefact: Path | str, data: Data, *, runtime: CpuRuntime = "auto", progress: Progress | None = None
) -> dict[str, NDArray[np.generic]]:
    """Run an artefact over arrays; every output [N, ...] in the order of the samples.

    Outputs with a sequence axis are padded with zeros to the longest batch. Raises ``DataError`` if they differ
    in any other dimension.
    """
    from calib8.runtime.feed import feed_of
    from calib8.runtime.run_all import run_all

    progress = progress or Quiet()
    dataset = feed_of(Path(artefact), open_source(data), progress)
    with open(artefact, runtime=runtime) as opened:
        return run_all(opened, dataset, progress)


def run_to_folder(
    artefact: Path | str,
    data: Data,
    output: Path | str,
    *,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> dict[Path, tuple[int, ...]]:
    """``run``, every output written to ``output`` as ``<name>.npy``. Returns file -> shape."""
    written: dict[Path, tuple[int, ...]] = {}
    for name, array in run(artefact, data, runtime=runtime, progress=progress).items():
        path = Path(output) / f"{name.replace('/', '_')}.npy"
        if path in written:
            raise ConfigError(f"two outputs would be written to {path}. Run the model through calib8.run instead.")
        save_array(path, array)
        written[path] = array.shape
    return written


def embed(
    artefact: Path | str,
    sentences: Sequence[str],
    *,
    tokenizer: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Sentence embeddings [len(sentences), width], in order. ``tokenizer`` is a folder; beside the artefact if None."""
    from calib8.models.sentence import SentenceEncoder

    with open(artefact, runtime=runtime) as opened:
        folder = Path(tokenizer) if tokenizer is not None else Path(artefact).parent
        return SentenceEncoder(folder, opened).embed(sentences, progress)


def compare(
    reference: Path | str,
    candidate: Path | str,
    data: Data,
    *,
    tokenizer: Path | str | None = None,
    pairs: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Compare a candidate with its FP32 reference over held-out data: arrays, or text where there is a tokenizer.

    pairs: CSV file of scored sentence pairs, to compare rank correlations too.
    """
    from calib8.verification.run import verify_artefacts

    return verify_artefacts(
        Path(reference),
        Path(candidate),
        data if isinstance(data, (str, Path)) else open_source(data),
        tokenizer=Path(tokenizer) if tokenizer is not None else None,
        pairs=Path(pairs) if pairs is not None else None,
        runtime=runtime,
        progress=progress or Quiet(),
    )


def verify(
    reference: Path | str, candidate: Path | str, data: Data, config: Verify | None = None, **options: Any
) -> Comparison:
    """``compare``, then raise ``AccuracyMissed`` if a limit of ``config`` is missed. ``options`` go to ``compare``."""
    comparison = compare(reference, candidate, data, **options)
    comparison.raise_for_failure(config or Verify())
    return comparison


def inspect(path: Path | str) -> dict[str, Any]:
    """What a model, engine, calibration cache, ranges or plan file contains."""
    from calib8.report.inspect import describe

    return describe(Path(path))


def convert(
    model: Path | str,
    data: Data,
    output: Path | str,
    config: Convert | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Calibrate, quantise, build, verify and report: an INT8 engine and its proof in the folder ``output``."""
    from calib8.conversion import Convert
    from calib8.conversion import convert as run_convert

    return run_convert(Path(model), open_source(data), Path(output), config or Convert(), progress or Quiet())
