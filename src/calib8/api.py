"""What calib8 can make and run, one function per command; ``judging`` has the rest.

Composition only: every step lives in a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from calib8.calibration.config import Calibrate
from calib8.data.array_files import save_array
from calib8.data.sources import Batches, NpyFolder, NpzFile, Source, open_source
from calib8.errors import ConfigError
from calib8.files import require_distinct, require_folder, require_separate
from calib8.progress import Progress, Quiet
from calib8.quantization.config import Int8, Migrate
from calib8.runtime.names import CpuRuntime
from calib8.text.tokenizer import Prepare, TextTokenizer

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from calib8.caches.cache import Algorithm
    from calib8.calibration.ranges import Ranges
    from calib8.cluster.config import Ray
    from calib8.convert import Convert
    from calib8.engine.build import BuiltEngine
    from calib8.engine.config import Build
    from calib8.quantization.export_cache import Exported
    from calib8.quantization.migrate import Migration
    from calib8.quantization.quant_plan import QuantPlan
    from calib8.quantization.sensitivity import Sensitivity
    from calib8.report.report import Report
    from calib8.runtime.base import Runtime

Data: TypeAlias = "Path | str | Source | Iterable[Mapping[str, NDArray[np.generic]]]"

npy_folder = NpyFolder
"""``npy_folder(folder)``: data in a folder, one ``<input name>.npy`` [N, ...] per model input, or ``.npz`` files."""
npz_file = NpzFile
"""``npz_file(path)``: data in one ``.npz`` file, an array [N, ...] per model input."""
batches = Batches
"""``batches(data)``: data in memory, one dict of input name -> array [N, ...], or an iterable of such dicts."""


def fetch(name: str, to: Path | str, *, progress: Progress | None = None) -> Path:
    """Fetch a reference model, its tokenizer and pooling config into the folder ``to``. Raises ``FetchError``."""
    from calib8.zoo.fetch import fetch as fetch_model

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
    from calib8.text.tokenizer import prepare as prepare_text

    require_folder(output)
    own = TextTokenizer(Path(tokenizer), Prepare.of(config).max_length)
    return prepare_text([Path(text) for text in texts], own, Path(output), progress or Quiet())


def load(path: Path | str) -> ir.Model:
    """Load an ONNX model and bring it into the form the other functions expect. Raises ``ModelError``."""
    from calib8.graph.io import load as load_model
    from calib8.passes.prepare import prepare as prepare_model

    return prepare_model(load_model(_path(path)))


def save(model: ir.Model, path: Path | str) -> Path:
    """Write an ONNX model atomically."""
    from calib8.graph.io import save as save_model

    return save_model(model, path)


def calibrate(  # noqa: PLR0913
    model: ir.Model | Path | str,
    data: Data,
    config: Calibrate | None = None,
    *,
    output: Path | str | None = None,
    cache: Path | str | None = None,
    cache_version: str | None = None,
    cluster: Ray | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Run the model once over ``data`` and return the range of every tensor that INT8 needs.

    output: ranges file. If it is there and was made from the same model, data and settings, it is returned at once.
    cache: also write the ranges as a TensorRT calibration cache, for ``cache_version`` (such as "101600"), and what
        they were made from to ``<cache>.json``.
    cluster: run the model there, see ``calibration.over_ray``; ``model`` must be a path. The ranges are the same.
    """
    from calib8.caches.cache import ALGORITHMS, DEFAULT_VERSION, cache_of, version_of
    from calib8.caches.record import record_path, save_with_record
    from calib8.calibration import run
    from calib8.calibration.anywhere import calibrated
    from calib8.graph.io import SOURCE_SHA256, source_sha256
    from calib8.resume import beside, discard, unfinished_work
    from calib8.text.text_source import calibration_source

    if cluster is not None and isinstance(data, (str, Path)):
        data = Path(data).absolute()  # workers are in another folder
    config, progress = Calibrate.of(config), progress or Quiet()
    source = calibration_source(data, model, progress)
    path = Path(output) if output is not None else None
    version = version_of(cache_version or DEFAULT_VERSION)  # before the pass, which takes long
    require_separate([output, cache, record_path(Path(cache)) if cache is not None else None], _named(model, data))
    if cluster is None and isinstance(model, (str, Path)):
        model = load(model)
    known = source_sha256(model) if isinstance(model, (str, Path)) else model.metadata_props.get(SOURCE_SHA256, "")
    origin = run.origin_of(known, source.fingerprint(), config)
    ranges = run.reusable(path, origin, progress) if known else None
    if ranges is not None and path is not None:
        discard(beside(path))
    elif ranges is None:
        with unfinished_work(beside(path) if path is not None else None) as unfinished:
            ranges = calibrated(model, source, config, origin, progress, cluster=cluster, unfinished=unfinished)
            if path is not None:
                ranges.save(path)
    if cache is not None:
        written_cache = cache_of(ranges.amax(), algorithm=ALGORITHMS[config.observer], version=version)
        save_with_record(written_cache, Path(cache), ranges.origin)
    return ranges


def plan(model: ir.Model, ranges: Ranges, config: Int8 | None = None) -> QuantPlan:
    """Decide for every weighted op from ``ranges`` alone whether it becomes INT8, and say why."""
    from calib8.quantization.policy import make_plan

    return make_plan(model, ranges, Int8.of(config))


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
    from calib8.quantization.run import quantise

    source = open_source(data) if data is not None else None
    return quantise(model, ranges, Int8.of(config), source, progress or Quiet())[0]


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
    from calib8.quantization.run import quantise
    from calib8.resume import beside, unfinished_work
    from calib8.text.text_source import calibration_source

    require_separate([output, plan], [model, ranges, *_named(data)])
    config, progress, calibrated = Int8.of(config), progress or Quiet(), Ranges.load(Path(ranges))
    source = calibration_source(data, model, progress) if data is not None else None
    with unfinished_work(beside(Path(output)) if data is not None else None) as unfinished:
        folder = Path(model).parent
        quantised, decided = quantise(
            load(model), calibrated, config, source, progress, folder=folder, unfinished=unfinished
        )
        save(quantised, output)
        if plan is not None:
            decided.save(Path(plan))
    return decided


def migrate(
    cache: Path | str,
    model: Path | str,
    output: Path | str,
    config: Migrate | None = None,
    *,
    progress: Progress | None = None,
) -> Migration:
    """Turn a calibration cache of TensorRT 8 to 10 and its FP32 model into an explicitly quantised (Q/DQ) model.

    The scales of the cache are kept to the bit; ``export_cache`` gives it back. Raises ``CacheError`` for a cache that
    is no cache, is of another model, or holds 1 / scale.
    """
    from calib8.caches.cache import Cache
    from calib8.caches.record import require_fit
    from calib8.graph.io import SOURCE_SHA256
    from calib8.graph.io import load as load_model
    from calib8.quantization.migrate import migrate as migrate_model

    require_separate([output], [cache, model])
    config, progress = Migrate.of(config), progress or Quiet()
    scales, loaded = Cache.load(Path(cache)), load_model(model)
    origin = require_fit(Path(cache), loaded.metadata_props[SOURCE_SHA256], progress)
    quantised, migration = migrate_model(loaded, scales, config, origin, progress)
    save(quantised, output)
    return migration


def export_cache(
    source: Path | str,
    output: Path | str,
    *,
    version: str | None = None,
    algorithm: Algorithm | None = None,
) -> Exported:
    """Write a calibration cache for TensorRT 8 to 10 from ``ranges.json``, a Q/DQ model (``.onnx``), or another cache.

    version: of the TensorRT that reads it, "10.16.0" or "101600"; algorithm: that of its calibrator. TensorRT refuses a
        cache in which either differs. By default 101600, and what fits the source.
    What it was made from goes to ``<output>.json``. Raises ``CacheError`` if the source has no scale to export.
    """
    from calib8.caches.cache import DEFAULT_VERSION
    from calib8.caches.record import record_path, save_with_record
    from calib8.quantization.export_cache import exported

    require_separate([output, record_path(Path(output))], [source])
    found = exported(Path(source))
    cache = found.cache.with_header(version or DEFAULT_VERSION, algorithm)
    save_with_record(cache, Path(output), found.origin)
    return replace(found, cache=cache)


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
    from calib8.quantization.run import measure_sensitivity
    from calib8.text.text_source import calibration_source

    if output is not None:
        require_separate([output], [model, *_named(data)])
    progress = progress or Quiet()
    source = calibration_source(data, model, progress)
    found = measure_sensitivity(Path(model), source, Int8.of(config), samples, progress)
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

    data: for a config with a calibrator (TensorRT 10 only), which finds the INT8 scales of an FP32 model. Raises
    ``CacheError`` if the config's calibration cache was made from another model or other data, as far as is known.
    """
    from calib8.caches.record import lent_to_calibrator
    from calib8.calibration.run import calibrator_origin
    from calib8.engine.build import build_engine
    from calib8.engine.config import Build
    from calib8.graph.io import load as load_model
    from calib8.graph.io import source_sha256
    from calib8.graph.limits import dimension_limits

    config, progress, source = Build.of(config), progress or Quiet(), open_source(data) if data is not None else None
    cache = config.calibration_cache
    require_separate([output, config.timing_cache, cache, config.log], [model])
    limits = dimension_limits(load_model(model))
    with ExitStack() as lent:
        if cache is not None:
            known = source.fingerprint() if source is not None else ""
            origin = calibrator_origin(source_sha256(Path(model)), known, str(config.calibrator))
            lent.enter_context(lent_to_calibrator(cache, origin, progress))
        return build_engine(Path(model), Path(output), config, data=source, limits=limits, progress=progress)


def open(
    artefact: Path | str,
    *,
    runtime: CpuRuntime = "auto",
    threads: int | None = None,
    contexts: int | None = None,
    cuda_graphs: int | None = None,
    device: int | None = None,
    host_code: bool | None = None,
) -> Runtime:
    """Open an ONNX model on the CPU or an engine on the GPU; use the result in a ``with`` block.

    threads: of the CPU, for a model. contexts: runs that an engine can have under way (1), for several threads or for
    ``submit``. cuda_graphs: how many each context keeps (8), 0 for none. device: CUDA's number of the GPU. host_code:
    let a version-compatible engine run the code for the CPU that it brings. Raises ``ConfigError`` for one that does
    not apply.
    """
    from calib8.runtime.open import open_artefact

    on_gpu: dict[str, Any] = {"cuda_graphs": cuda_graphs, "device": device, "host_code": host_code}
    return open_artefact(_path(artefact), runtime, threads=threads, contexts=contexts, **on_gpu)


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


def convert(
    model: Path | str,
    data: Data,
    output: Path | str,
    config: Convert | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Calibrate, quantise, build, verify and report: an INT8 engine and its proof in the folder ``output``."""
    from calib8.convert import Convert
    from calib8.convert import convert as run_convert
    from calib8.text.text_source import calibration_source

    progress = progress or Quiet()
    require_folder(output)
    source = calibration_source(data, model, progress)
    return run_convert(Path(model), source, Path(output), Convert.of(config), progress)


def _named(*given: object) -> list[Path | str]:
    """Those that are files or folders."""
    return [one for one in given if isinstance(one, (str, Path))]


def _path(given: object) -> Path:
    if not isinstance(given, (str, Path)):
        raise ConfigError(f"got a model of type {type(given).__name__}, expected the path of its file.")
    return Path(given)
