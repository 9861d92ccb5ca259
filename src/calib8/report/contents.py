"""What each report holds, from the verdict down."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from calib8.calibration.ranges import Ranges
from calib8.quantization.quant_plan import QuantPlan
from calib8.report.bench import BenchReport
from calib8.report.report import Conversion, FileFacts, Machine, Report
from calib8.report.section import Document, Section
from calib8.report.verification import VerificationReport
from calib8.verification.compare import Comparison
from calib8.verification.config import Verify

Kind = Literal["conversion", "verification", "bench"]

#: The sections of each kind of report in their order: modules of ``calib8.report.sections``, each with a function that
#: is named after the kind, and gives the section or, where the report has nothing for it, None.
SECTIONS: dict[Kind, tuple[str, ...]] = {
    "conversion": (
        "summary",
        "size_and_speed",
        "accuracy",
        "gpu_against_cpu",
        "gpu_speed",
        "gains",
        "engines",
        "plan",
        "ranges",
        "timeline",
        "activity",
        "verdict",
    ),
    "verification": (
        "summary",
        "accuracy",
        "latency",
        "gpu_against_cpu",
        "breakdown",
        "activity",
        "files",
        "engines",
        "verdict",
    ),
    "bench": (
        "latency",
        "breakdown",
        "activity",
    ),
}


def conversion(report: Report, plan: QuantPlan | None = None, ranges: Ranges | None = None) -> Document:
    """A conversion; a page has ``plan`` and ``ranges``, too."""
    told = report.precision.upper()
    return Document(
        title=f"{_located(report.model)} in {told}",
        about=f"SHA-256 of the FP32 model {report.model.sha256[:12]}…, of the {told} model {report.int8.sha256[:12]}…",
        passed=report.passed,
        verdict=report.failure or _kept(report.accuracy, report.limits),
        sections=_sections("conversion", Conversion(report, plan, ranges)),
        made=_made(report.calib8, report.created, report.machine),
    )


def verification(report: VerificationReport) -> Document:
    """A verification."""
    return Document(
        title=f"{_located(report.candidate)} against {_located(report.reference)}",
        passed=report.passed,
        verdict=report.failure or _kept(report.accuracy, report.limits),
        sections=_sections("verification", report),
        made=_made(report.calib8, report.created, report.machine),
    )


def bench(report: BenchReport) -> Document:
    """A benchmark."""
    first = next(iter(report.runtimes))
    return Document(
        title="Latency and throughput",
        passed=None,
        verdict=f"Measured by turns, from arrays in host memory to arrays in host memory; ratios are to {first}.",
        sections=_sections("bench", report),
        made=_made(report.calib8, report.created, report.machine),
    )


def _sections(kind: Kind, report: Conversion | VerificationReport | BenchReport) -> tuple[Section, ...]:
    made = (_maker(name, kind)(report) for name in SECTIONS[kind])
    return tuple(section for section in made if section is not None)


def _maker(name: str, kind: Kind) -> Callable[[Any], Section | None]:
    maker: Callable[[Any], Section | None] = getattr(import_module(f"calib8.report.sections.{name}"), kind)
    return maker


def _kept(accuracy: Comparison, limits: Verify) -> str:
    """What was asked for and found, where nothing was missed."""
    found = [f"{name} {found}, {wanted} was asked for" for name, found, wanted, _ in accuracy.judged(limits)]
    return "; ".join(found) or "No limit was given: nothing was judged."


def _located(file: FileFacts) -> str:
    """``all-mpnet-base-v2/model.onnx``: many models have the same name."""
    return f"{file.folder}/{file.name}" if file.folder else file.name


def _made(version: str, created: str, machine: Machine) -> str:
    return (
        f"calib8 {version}, {created}; {machine.processor}, {machine.cores} cores, {machine.system}, "
        f"Python {machine.python}. This file loads nothing: the same numbers are in the JSON file beside it."
    )
