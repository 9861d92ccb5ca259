"""What calib8 can say of an artefact or of this machine, one function per command. Composition only, as in ``api``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib8.data.sources import open_source
from calib8.progress import Progress, Quiet
from calib8.runtime.names import CpuRuntime
from calib8.verification.config import Bench, Verify

if TYPE_CHECKING:
    from calib8.api import Data
    from calib8.doctor.diagnosis import Diagnosis
    from calib8.report.bench import BenchReport
    from calib8.report.verification import VerificationReport
    from calib8.runtime.choice import Measured
    from calib8.verification.compare import Comparison
    from calib8.verification.on_gpu import GpuComparison


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
    limits = Verify.of(config)
    comparison = compare(reference, candidate, data, **options)
    comparison.raise_for_failure(limits)
    return comparison


def keep_verdict(report: VerificationReport, output: Path) -> None:
    """Write a verdict to ``output``, as JSON, and beside it as an HTML page."""
    from calib8.report.page.content import verification_page
    from calib8.report.page.html import write_page

    report.save(output)
    write_page(output.with_suffix(".html"), verification_page(report))


def verdict(
    reference: Path,
    candidate: Path,
    data: Path,
    comparison: Comparison,
    limits: Verify,
    *,
    on_gpu: GpuComparison | None = None,
) -> VerificationReport:
    """What ``compare`` or ``compare_on_gpu`` found, judged by ``limits``, with the facts of both files."""
    from calib8.report.verification import verification_report

    return verification_report(reference, candidate, str(data), comparison, limits, on_gpu)


def compare_on_gpu(
    reference: Path | str,
    engine: Path | str,
    data: Data,
    *,
    tokenizer: Path | str | None = None,
    pairs: Path | str | None = None,
    progress: Progress | None = None,
) -> GpuComparison:
    """Run an engine on the GPU against FP32 on the CPU: accuracy, speed, and how far INT8 on the CPU is from it.

    Raises ``SetupError`` before the long work where the engine cannot run on this machine.
    """
    from calib8.verification.on_gpu import verify_on_gpu

    return verify_on_gpu(
        Path(reference),
        Path(engine),
        data if isinstance(data, (str, Path)) else open_source(data),
        tokenizer=Path(tokenizer) if tokenizer is not None else None,
        pairs=Path(pairs) if pairs is not None else None,
        progress=progress or Quiet(),
    )


def bench(
    artefacts: Sequence[Path | str],
    data: Data,
    config: Bench | None = None,
    *,
    tokenizer: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> BenchReport:
    """Latency and throughput of ONNX models and engines by turns, over arrays or text; ratios are to the first."""
    from calib8.benchmark.run import run_bench

    return run_bench(
        [Path(artefact) for artefact in artefacts],
        data if isinstance(data, (str, Path)) else open_source(data),
        Bench.of(config),
        tokenizer=Path(tokenizer) if tokenizer is not None else None,
        runtime=runtime,
        progress=progress or Quiet(),
    )


def tune(
    model: Path | str, data: Data, *, tokenizer: Path | str | None = None, progress: Progress | None = None
) -> Measured:
    """Measure which CPU runtime and form of an ONNX model is fastest here, over arrays or text; ``auto`` takes it then.

    Without it ``auto`` goes by a rule. What was measured is kept in the user's cache for this model, processor, number
    of cores and versions.
    """
    from calib8.benchmark.tune import run_tune

    return run_tune(
        Path(model),
        data if isinstance(data, (str, Path)) else open_source(data),
        tokenizer=Path(tokenizer) if tokenizer is not None else None,
        progress=progress or Quiet(),
    )


def doctor(*, progress: Progress | None = None) -> Diagnosis:
    """What this machine has, what of calib8 works on it, and what to do about the rest. Makes no CUDA context."""
    from calib8.doctor.diagnosis import diagnose

    return diagnose(progress or Quiet())


def inspect(path: Path | str) -> dict[str, Any]:
    """What a model, engine, calibration cache, ranges or plan file contains."""
    from calib8.report.inspect import describe

    return describe(Path(path))
