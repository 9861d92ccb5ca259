"""The whole recipe in one go: calibrate, quantise, build, verify, report."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from calib8.caches.record import save_with_record
from calib8.calibration.anywhere import calibrated
from calib8.calibration.origin import origin_of, reusable
from calib8.calibration.ranges import Ranges
from calib8.conversion.baseline import race_baseline
from calib8.conversion.config import Convert
from calib8.conversion.executed import judged
from calib8.conversion.record import Record
from calib8.conversion.trial import Trial
from calib8.data.batching import Dataset
from calib8.data.sources import Data, Source, open_source
from calib8.data.split import shared, split
from calib8.engine.able import able
from calib8.engine.build import build_engine, builder_of
from calib8.engine.parsable import require_parsable
from calib8.errors import AccuracyMissed, ConfigError, LimitMissed, PlanMismatch
from calib8.files import atomic, require_folder, require_separate
from calib8.gpu.hardware import gpus
from calib8.gpu.monitor import watched
from calib8.graph.dataset import dataset_for, samples_for, sizes_for
from calib8.graph.io import SOURCE_SHA256, load, save, source_sha256
from calib8.graph.left_out import require_weighted_ops
from calib8.graph.limits import dimension_limits
from calib8.passes.half_rules import refuse_unknown_types
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import prepare
from calib8.precision import Precision
from calib8.progress import Progress, Quiet
from calib8.provenance import PLAN, Origin
from calib8.quantization.apply import repeats
from calib8.quantization.budget import BUDGET_PROBED, quantise_within
from calib8.quantization.case import Case, rows_to_sample
from calib8.quantization.config import PROBED
from calib8.quantization.guard import quantise_guarded
from calib8.quantization.policy import selected
from calib8.quantization.probe import probe_of
from calib8.quantization.quant_plan import QuantPlan, recorded
from calib8.report import contents
from calib8.report.page.html import write_page
from calib8.report.report import CalibrationFacts, EngineFacts, Report, engine_facts, file_facts, this_machine
from calib8.resume import discard, unfinished_work, within
from calib8.runtime.contract import contract_of
from calib8.runtime.cpu import open_cpu
from calib8.runtime.judged import open_as_built, open_reference
from calib8.text.sentence import SentenceEncoder, pooling_of, text_tokenizer
from calib8.text.text_source import TEXT_SUFFIXES, calibration_source, texts_of, tokenised_source
from calib8.text.tokenizer import read_sentences
from calib8.verification.comparable import require_comparable
from calib8.verification.compare import Comparison
from calib8.verification.gains import Gains
from calib8.verification.gpu_speed import GpuSpeed
from calib8.verification.named import KindName
from calib8.verification.on_gpu import first_here
from calib8.verification.pairs import read_pairs
from calib8.verification.run import HeldOut
from calib8.verification.speed import Speed, race

#: What makes a token encoder a sentence encoder, copied beside the INT8 model so that it can be used alone. config.json
#: says to which dimensions its vectors may be cut.
SENTENCE_FILES = (
    "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "config.json", "modules.json", "*Pooling/config.json",
)  # fmt: skip


def convert(
    model: Path | str,
    data: Data,
    output: Path | str,
    config: Convert | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Convert ``model`` into the folder ``output``: ranges, cache, plan, quantised model, engines, report and page.

    What can be known to be wrong is refused first. A report is written even when an engine's plan or the accuracy
    misses its limit; then ``PlanMismatch`` or ``AccuracyMissed`` is raised, with the report. Steps whose inputs did not
    change since the last run are reused.

    Example:

        >>> without_engine = calib8.Convert(held_out="held_out.txt", build=None)
        >>> report = calib8.convert("model.onnx", "calib_data", "build/model", without_engine)
        >>> report.passed, report.int8.name
        (True, 'model.int8.onnx')
    """
    model, output, config, progress = Path(model), Path(output), Convert.of(config), progress or Quiet()
    require_folder(output)
    if config.ray is not None and isinstance(data, (str, Path)):
        data = Path(data).absolute()  # workers are in another folder
    source = calibration_source(data, model, progress)
    _refuse_early(model, config)
    reference = _checked_model(model, config)
    config = config.decided()
    source = samples_for(reference, source, progress)
    if config.build is not None:
        config.build.profiles(reference, sizes_for(reference, source))
    job = _Job(model, output, config, progress)
    fitted, held_out = (source, None) if config.held_out is not None else split(source)
    with watched(config.monitor) as activity:
        with job.timed("quantize"):
            ranges, plan, int8 = job.quantize(reference, fitted, held_out)
        with job.timed("build"):
            engines, failure = job.build(int8)
        here = first_here(output / engine.file.name for engine in engines)
        with job.timed("verify"):
            measured = job.verify(reference, int8, here and here[0], held_out, fitted)
        gpu_speed = job.race(reference, here, measured.dataset, len(ranges.beyond))
    if here is not None and (measured.on_gpu or gpu_speed):
        ran = here[0].name
        engines = tuple(one.model_copy(update={"executed": one.file.name == ran}) for one in engines)
    failure = failure or measured.failure
    report = job.report(plan, ranges, engines, measured, failure)
    report = report.model_copy(update={"activity": activity(), "gpu_speed": gpu_speed, "gains": job.gains})
    report.save(output / "report.json")
    write_page(output / "report.html", contents.conversion(report, plan, ranges))
    if failure is not None:
        failure.report = report
        raise failure
    return report


def _refuse_early(model: Path, config: Convert) -> None:
    """Fail before the long work, not after it."""
    if config.build is not None:
        require_separate([config.build.log], [model])
        able(builder_of(config.build).targets, config.build, config.quantize.grid, Quiet())
    is_text = config.held_out is not None and config.held_out.suffix in TEXT_SUFFIXES
    if is_text and config.held_out is not None:
        read_sentences(config.held_out)
    elif config.held_out is not None:
        open_source(config.held_out)
    if config.pairs is not None:
        read_pairs(config.pairs)
    if (model.parent / "tokenizer.json").is_file():
        text_tokenizer(model.parent)  # sentences will be embedded with it
    elif is_text or config.pairs is not None:
        raise ConfigError(f"text needs a tokenizer: expected tokenizer.json beside {model}. Give arrays instead.")


def _checked_model(model: Path, config: Convert) -> ir.Model:
    """The model, prepared, if the ops that ``config`` names are there."""
    reference = prepare(load(model))
    require_weighted_ops(reference)
    if config.quantize.remainder == "fp16":
        refuse_unknown_types(reference.graph)
    selected(reference, config.quantize)
    require_weighted_ops(reference)
    return reference


@dataclass(frozen=True)
class _Measured:
    dataset: Dataset
    accuracy: Comparison
    runtime: str
    speed: Speed | None
    held_out: str
    on_calibration_data: bool
    on_gpu: Comparison | None
    failure: AccuracyMissed | None


@dataclass
class _Job:
    """One conversion: where it reads and writes, and how long its steps took."""

    model: Path
    output: Path
    config: Convert
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    #: What INT8 was found to gain op by op, if that was timed.
    gains: Gains | None = None

    @property
    def precision(self) -> Precision:
        """What the quantised ops multiply."""
        return self.config.quantize.grid.precision

    @property
    def quantised_path(self) -> Path:
        return self.output / f"model.{self.precision}.onnx"

    @property
    def engine_path(self) -> Path:
        return self.output / f"{self.output.resolve().name}-{self.precision}.engine"

    @property
    def folder(self) -> Path:
        """Where tokenizer and pooling config of the reference lie, if it is a sentence encoder."""
        return self.model.parent

    @property
    def kinds(self) -> dict[str, KindName]:
        """What outputs are, as far as somebody said so: guard, search and verdict measure the same."""
        return {**self.config.quantize.kinds, **self.config.verify.kinds}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Take the time of ``step``, less that of steps within it, every time that it is taken."""
        start, before = time.perf_counter(), sum(self.seconds.values())
        yield
        within = sum(self.seconds.values()) - before
        own = time.perf_counter() - start - within
        self.seconds[step] = round(self.seconds.get(step, 0.0) + own, 2)

    def quantize(
        self, reference: ir.Model, data: Source, held_out: Source | None
    ) -> tuple[Ranges, QuantPlan, ir.Model]:
        """Ranges, plan and quantised model: the last run's where nothing changed, else by one pass over ``data``."""
        origin = origin_of(reference.metadata_props[SOURCE_SHA256], data.fingerprint(), self.config.calibrate)
        settings: dict[str, str | float | int] = {"pooling": str(pooling_of(self.folder)[0])}  # what damage is seen in
        if self.config.budget is not None:  # part of the data is held back from the ranges
            settings["budget"] = str(self.config.budget)
        origin = origin.model_copy(update={"settings": origin.settings | settings})
        if (known := self._last_run(origin)) is not None:
            self._forget_verdict()
            self._copy_sentence_files()
            known[1].save(self.output / "plan.json")  # an interrupted run may have left another
            discard(within(self.output))
            return known
        if self.config.build is not None:
            require_parsable(reference, self.model, self.config.build, self.progress)
        if held_out is not None:
            require_comparable(reference, held_out, self.config.calibrate.memory, self.kinds)
        with unfinished_work(within(self.output)) as unfinished:
            return self._quantized(reference, data, origin, unfinished)

    def _quantized(
        self, reference: ir.Model, data: Source, origin: Origin, unfinished: Path | None
    ) -> tuple[Ranges, QuantPlan, ir.Model]:
        fitted, unfitted = split(data) if self.config.budget else (data, data)
        dataset = dataset_for(reference, fitted, self.progress, self.config.calibrate.memory)
        self._forget_verdict()
        with self.timed("calibrate"):
            found = calibrated(
                reference,
                dataset,
                self.config.calibrate,
                origin,
                self.progress,
                sample=rows_to_sample(self.config.quantize),
                cluster=self.config.ray,
                path=self.model,
                unfinished=unfinished,
            )
        found.ranges.save(self.output / "ranges.json")  # a float engine may be built by it meanwhile
        case = Case(plain_convolutions(reference), found.ranges, found.statistics, self.config.quantize, unfinished)
        int8, plan = self._search(case, unfitted, dataset)
        if told := plan.describe_float():
            self.progress.note(told)
        save_with_record(found.ranges.cache(), self.output / "calibration.cache", found.ranges.origin)
        plan.save(self.output / "plan.json")
        self._copy_sentence_files()
        save(int8, self.quantised_path)
        record = Record(sha256=source_sha256(self.quantised_path), gains=self.gains)
        record.save(self.quantised_path)  # last: its being there says that the rest is
        return found.ranges, plan, int8

    def _forget_verdict(self) -> None:
        """Called once model, data and options were found to go together: it must not outlive what it was about."""
        for name in ("report.json", "report.html"):
            (self.output / name).unlink(missing_ok=True)

    def _copy_sentence_files(self) -> None:
        """In a run that reuses the model, too: they may be others than in the last one."""
        if self.folder.resolve() == self.output.resolve():
            return
        for source in (found for pattern in SENTENCE_FILES for found in self.folder.glob(pattern)):
            with atomic(self.output / source.relative_to(self.folder)) as temporary:
                shutil.copyfile(source, temporary)

    def _search(self, case: Case, data: Source, dataset: Dataset) -> tuple[ir.Model, QuantPlan]:
        samples = PROBED if self.config.budget is None else BUDGET_PROBED
        probe = probe_of(case.model, data, samples, self.folder, self.kinds)
        if self.config.budget is not None:
            return quantise_within(case, probe, self.config.budget, self.progress)
        trial = self._trial(case.model, dataset)
        found = quantise_guarded(case, probe, self.progress, trial)
        self.gains = trial.gains if trial is not None else None
        return found

    def _trial(self, reference: ir.Model, dataset: Dataset) -> Trial | None:
        """What times ops, where they are to be fast and there may be something to run them."""
        build, wanted = self.config.build, self.config.baseline and self.config.quantize.goal == "latency"
        if build is None or not wanted or not gpus():
            return None
        paths = self.model, reference, self.quantised_path, self.engine_path
        return Trial(*paths, build, dataset, self.progress, self.timed)

    def _last_run(self, origin: Origin) -> tuple[Ranges, QuantPlan, ir.Model] | None:
        if not self.quantised_path.is_file():
            return None
        if (ranges := reusable(self.output / "ranges.json", origin, self.progress)) is None:
            return None
        int8 = load(self.quantised_path)
        record = Record.of(self.quantised_path)
        if record is None or record.sha256 != int8.metadata_props[SOURCE_SHA256]:
            self.progress.note(f"quantising again: {self.quantised_path} is not what the last run wrote there")
            return None
        plan = recorded(QuantPlan, int8, PLAN)
        if plan is None or not repeats(int8, origin, self.config.quantize):
            self.progress.note("quantising again: the options changed, and that needs the data")
            return None
        self.progress.note(f"{self.precision.upper()} model is up to date: reused {self.quantised_path}")
        self.gains = record.gains
        return ranges, plan, int8

    def build(self, int8: ir.Model) -> tuple[tuple[EngineFacts, ...], LimitMissed | None]:
        """Engines whose plan runs everything in 8 bits, and the complaint about those whose plan does not."""
        if self.config.build is None:
            return (), None
        limits = dimension_limits(int8)
        path, config, failure = self.engine_path, self.config.build, None
        try:
            engines = build_engine(self.quantised_path, path, config, limits=limits, progress=self.progress)
        except PlanMismatch as error:
            engines, failure = list(error.built), error
        return tuple(engine_facts(engine.path) for engine in engines), failure

    def verify(
        self, reference: ir.Model, int8: ir.Model, engine: Path | None, held_out: Source | None, fitted: Source
    ) -> _Measured:
        """``engine`` is one that runs here, ``fitted`` the calibration data."""
        data = self.config.held_out
        contract = contract_of(reference)
        source = held_out or tokenised_source(str(data), self.folder, contract, self.progress)
        if on_calibration_data := source.fingerprint() == fitted.fingerprint():
            self.progress.note(
                f"{data} is the calibration data itself: what is measured on it says too much. Hold other "
                "data out, or go without --held-out, and calib8 holds some back."
            )
        dataset = dataset_for(reference, source, self.progress, self.config.calibrate.memory)
        known = 0 if on_calibration_data else shared(dataset, dataset_for(reference, fitted, Quiet()))
        if known:
            self.progress.note(
                f"{known} of {len(dataset)} held-out samples are in the calibration data too: what is measured on them "
                "says too much"
            )
        pairs = read_pairs(self.config.pairs) if self.config.pairs is not None else None
        texts = texts_of(data) if self.config.sentences else None
        with open_reference(reference) as expected, open_as_built(int8) as got:
            held = HeldOut(expected, dataset, self.folder, pairs, self.progress, texts, self.kinds)
            accuracy = held.judge(got)
            on_gpu, failure = judged(engine, held, accuracy, self.config.verify, int8)
        described = str(data) if data is not None else "held-back calibration data"
        speed, ran = self._speed(reference, int8), str(accuracy.runtime)
        return _Measured(dataset, accuracy, ran, speed, described, on_calibration_data, on_gpu, failure)

    def race(
        self, reference: ir.Model, here: tuple[Path, str] | None, dataset: Dataset, unheld: int
    ) -> GpuSpeed | None:
        """Against FP16, where this machine runs an engine: ``here`` are its path and target.

        ``unheld``: how many tensors FP16 does not hold.
        """
        build = self.config.build
        if build is None or here is None or not self.config.baseline:
            return None
        with self.timed("race against FP16"):
            limits = dimension_limits(reference)
            found = race_baseline(self.model, *here, build, limits, dataset, self.progress)
        return found and found.model_copy(update={"unheld": unheld})

    def _speed(self, reference: ir.Model, int8: ir.Model) -> Speed | None:
        """How fast held-out sentences become vectors, in the runtimes that are for use; None if there are none."""
        sentences = self.config.held_out
        if sentences is None or sentences.suffix not in TEXT_SUFFIXES:
            return None
        with open_cpu(reference, "onnxruntime") as expected, open_cpu(int8) as got:
            encoders = SentenceEncoder(self.folder, expected), SentenceEncoder(self.folder, got)
            return race(*encoders, read_sentences(sentences), self.progress)

    def report(
        self,
        plan: QuantPlan,
        ranges: Ranges,
        engines: tuple[EngineFacts, ...],
        measured: _Measured,
        failure: LimitMissed | None,
    ) -> Report:
        return Report(
            passed=failure is None,
            failure=str(failure) if failure else None,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            calib8=version("calib8"),
            machine=this_machine(),
            model=file_facts(self.model),
            int8=file_facts(self.quantised_path),
            precision=plan.precision,
            optimize=self.config.quantize.goal,
            int8_ops=len(plan.quantised),
            weighted_ops=len(plan.ops),
            calibration=CalibrationFacts(
                samples=ranges.samples, positions=ranges.positions, observer=self.config.calibrate.observer
            ),
            held_out=measured.held_out,
            limits=self.config.verify,
            measured_on_calibration_data=measured.on_calibration_data,
            accuracy=measured.accuracy,
            accuracy_runtime=measured.runtime,
            engine_accuracy=measured.on_gpu,
            speed=measured.speed,
            engines=engines,
            seconds=self.seconds,
        )
