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
from pydantic import Field

from calib8.calibration import run as calibration
from calib8.calibration.cache import ALGORITHMS, write_cache
from calib8.calibration.config import Calibrate
from calib8.calibration.ranges import Ranges
from calib8.config import Config
from calib8.data.sources import Source
from calib8.data.split import split
from calib8.data.text import read_sentences
from calib8.engine.build import build_engine
from calib8.engine.config import Build
from calib8.engine.family import load as load_tensorrt
from calib8.engine.sidecar import describe_engine
from calib8.errors import AccuracyMissed
from calib8.files import atomic, sha256_file
from calib8.graph.dataset import dataset_for
from calib8.graph.io import SOURCE_SHA256, load, save
from calib8.graph.limits import dimension_limits
from calib8.models.sentence import SentenceEncoder, pooling_of
from calib8.passes.prepare import prepare
from calib8.planning.apply import apply_plan
from calib8.planning.config import Int8
from calib8.planning.policy import make_plan
from calib8.planning.quant_plan import QuantPlan
from calib8.progress import Progress
from calib8.report.report import CalibrationFacts, EngineFacts, FileFacts, Report, this_machine
from calib8.runtime.cpu import open_cpu
from calib8.verification.compare import Comparison, compare
from calib8.verification.config import Verify
from calib8.verification.pairs import rank_correlation, read_pairs
from calib8.verification.run import TEXT_SUFFIXES, held_out_source
from calib8.verification.speed import Speed, race

#: What makes a token encoder a sentence encoder, copied beside the INT8 model so that it can be used alone.
SENTENCE_FILES = (
    "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "modules.json", "1_Pooling/config.json"
)  # fmt: skip


class Convert(Config):
    """Options of a conversion; the options of each step are its own config.

    held_out: arrays or a text file to measure accuracy on; None holds every eighth calibration sample back.
    pairs: scored sentence pairs for Spearman's correlation.
    build: None makes no engine.
    """

    calibrate: Calibrate = Calibrate()
    int8: Int8 = Int8()
    build: Build | None = Build()
    verify: Verify = Field(default=Verify(min_cosine=0.975))
    held_out: Path | None = None
    pairs: Path | None = None


def convert(model: Path, data: Source, output: Path, config: Convert, progress: Progress) -> Report:
    """Convert ``model`` into ``output``: ranges, cache, plan, INT8 model, engines, ``report.json``.

    The report is written even when a limit is missed; then ``AccuracyMissed`` is raised. Steps whose inputs did not
    change since the last run are reused.
    """
    if config.build is not None:
        load_tensorrt(config.build.family)  # fail before the long work, not after it
    job = _Job(model, output, config, progress)
    fitted, held_out = (data, None) if config.held_out is not None else split(data)
    with job.timed("load"):
        reference = prepare(load(model))
    with job.timed("calibrate"):
        ranges = job.calibrate(reference, fitted)
    with job.timed("quantize"):
        plan, int8 = job.quantize(reference, ranges)
    with job.timed("build"):
        engines = job.build()
    with job.timed("verify"):
        measured = job.verify(reference, int8, held_out)
    failure = None
    try:
        measured.accuracy.raise_for_failure(config.verify)
    except AccuracyMissed as error:
        failure = error
    report = job.report(plan, ranges, engines, measured, failure)
    report.save(output / "report.json")
    if failure is not None:
        raise failure
    return report


@dataclass(frozen=True)
class _Measured:
    accuracy: Comparison
    runtime: str
    speed: Speed | None
    held_out: str


@dataclass
class _Job:
    """One conversion: where it reads and writes, and how long its steps took."""

    model: Path
    output: Path
    config: Convert
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def int8_path(self) -> Path:
        return self.output / "model.int8.onnx"

    @property
    def folder(self) -> Path:
        """Where tokenizer and pooling config of the reference lie, if it is a sentence encoder."""
        return self.model.parent

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start, 2)

    def calibrate(self, reference: ir.Model, data: Source) -> Ranges:
        path, config = self.output / "ranges.json", self.config.calibrate
        known = reference.metadata_props[SOURCE_SHA256]
        origin = calibration.origin_of(known, data.fingerprint(), config)
        ranges = calibration.reusable(path, origin, self.progress)
        if ranges is None:
            dataset = dataset_for(reference, data, self.progress)
            ranges = calibration.calibrate(reference, dataset, config, origin, self.progress)
            ranges.save(path)
        write_cache(self.output / "calibration.cache", ranges.amax(), algorithm=ALGORITHMS[config.observer])
        return ranges

    def quantize(self, reference: ir.Model, ranges: Ranges) -> tuple[QuantPlan, ir.Model]:
        plan = make_plan(reference, ranges, self.config.int8)
        plan.save(self.output / "plan.json")
        int8 = apply_plan(reference, ranges, plan, self.config.int8)
        save(int8, self.int8_path)
        for name in SENTENCE_FILES:
            if (source := self.folder / name).is_file() and self.folder != self.output:
                with atomic(self.output / name) as temporary:
                    shutil.copyfile(source, temporary)
        return plan, int8

    def build(self) -> tuple[EngineFacts, ...]:
        if self.config.build is None:
            return ()
        limits = dimension_limits(load(self.int8_path))
        name = self.output / f"{self.output.resolve().name}-int8.engine"
        engines = build_engine(self.int8_path, name, self.config.build, limits=limits, progress=self.progress)
        return tuple(
            EngineFacts(
                file=file_facts(engine.path),
                target=engine.target,
                builder=describe_engine(engine.path).builder,
                plan=engine.plan,
            )
            for engine in engines
        )

    def verify(self, reference: ir.Model, int8: ir.Model, held_out: Source | None) -> _Measured:
        data = self.config.held_out
        source = held_out if held_out is not None else held_out_source(str(data), self.folder)
        dataset = dataset_for(reference, source, self.progress)
        pooling, _ = pooling_of(self.folder)
        with open_cpu(reference, "onnxruntime") as expected, open_cpu(int8) as got:
            accuracy = compare(expected, got, dataset, pooling=pooling, progress=self.progress)
            speed = None
            if (self.folder / "tokenizer.json").is_file():
                encoders = SentenceEncoder(self.folder, expected), SentenceEncoder(self.folder, got)
                accuracy, speed = self._as_sentences(*encoders, accuracy)
            described = str(data) if data is not None else f"{len(dataset)} samples held back from the calibration data"
            return _Measured(accuracy, got.description, speed, described)

    def _as_sentences(
        self, reference: SentenceEncoder, int8: SentenceEncoder, accuracy: Comparison
    ) -> tuple[Comparison, Speed | None]:
        if self.config.pairs is not None:
            pairs = read_pairs(self.config.pairs)
            correlation = rank_correlation(reference, int8, pairs, self.progress)
            accuracy = accuracy.model_copy(update={"spearman": correlation})
        if self.config.held_out is None or self.config.held_out.suffix not in TEXT_SUFFIXES:
            return accuracy, None
        sentences = read_sentences(self.config.held_out)
        return accuracy, race(reference, int8, sentences, self.progress)

    def report(
        self,
        plan: QuantPlan,
        ranges: Ranges,
        engines: tuple[EngineFacts, ...],
        measured: _Measured,
        failure: AccuracyMissed | None,
    ) -> Report:
        return Report(
            passed=failure is None,
            failure=str(failure) if failure else None,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            calib8=version("calib8"),
            machine=this_machine(),
            model=file_facts(self.model),
            int8=file_facts(self.int8_path),
            int8_ops=len(plan.nodes("int8")),
            weighted_ops=len(plan.ops),
            calibration=CalibrationFacts(
                samples=ranges.samples, positions=ranges.positions, observer=self.config.calibrate.observer
            ),
            held_out=measured.held_out,
            accuracy=measured.accuracy,
            accuracy_runtime=measured.runtime,
            speed=measured.speed,
            engines=engines,
            seconds=self.seconds,
        )


def file_facts(path: Path) -> FileFacts:
    """Name, size and hash of a file."""
    return FileFacts(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
