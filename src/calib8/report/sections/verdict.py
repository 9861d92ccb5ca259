"""What is read last in a terminal, and so what it ends with: the verdict, and what it rests on."""

from collections.abc import Iterator

from calib8.report.report import Conversion, Report
from calib8.report.section import Note, Section
from calib8.report.verification import VerificationReport
from calib8.report.wording import cpu_speed, in_runtime, measured_on
from calib8.verification.gpu_speed import GpuSpeed


def conversion(made: Conversion) -> Section:
    """Passed or failed, where the numbers come from, and what was not executed."""
    report, told = made.report, made.report.precision.upper()
    notes = [
        *_against_float(report),
        _judged(report.passed, report.failure),
        Note(f"accuracy: {measured_on(report)}"),
        Note(f"{told} ran in {in_runtime(report.accuracy_runtime)}"),
    ]
    if report.engine_accuracy is not None:
        notes.append(Note(f"on the GPU: the engine, in {report.engine_accuracy.runtime}"))
    notes += map(Note, report.accuracy.doubts(report.limits))
    if report.speed is not None:
        notes.append(Note(f"FP32 ran in {report.speed.reference_runtime}"))
        notes += map(Note, cpu_speed(report))
    if report.engines:
        notes += map(Note, _engines(report))
    return Section("Verdict", tuple(notes), on="terminal")


def verification(report: VerificationReport) -> Section:
    """Every limit, ``PASSED`` or ``FAILED`` if anything was judged, on what it was measured, and what computed it."""
    accuracy = report.accuracy
    notes = [
        Note(f"{'kept' if kept else 'MISSED'}: {name} {found}, {wanted} is asked for")
        for name, found, wanted, kept in accuracy.judged(report.limits)
    ]
    if report.passed is not None:
        notes.append(_judged(report.passed))
    notes.append(Note(f"accuracy: {measured_on(report)}"))
    notes += map(Note, accuracy.doubts(report.limits))
    if report.gpu is None:
        candidate, reference = (one or "an unnamed runtime" for one in (accuracy.runtime, accuracy.reference_runtime))
        notes.append(Note(f"{report.candidate.name} ran in {in_runtime(candidate)}"))
        notes.append(Note(f"{report.reference.name} ran in {reference}"))
    return Section("Verdict", tuple(notes), on="terminal")


def _judged(passed: bool, failure: str | None = None) -> Note:
    if passed:
        return Note("PASSED", style="bold green")
    return Note(f"FAILED: {failure}" if failure else "FAILED", style="bold red")


def _against_float(report: Report) -> Iterator[Note]:
    """First of all, since it decides which engine to ship: whether FP16 is faster, and where."""
    if (speed := report.gpu_speed) is None:
        return
    told = report.precision.upper()
    if slower := speed.slower:
        yield Note(
            f"SLOWER than FP16 in {speed.runtime}: {told} is {speed.told(slower)}. {_instead(report, speed)}",
            style="bold yellow",
        )
    if others := tuple(cell for cell in speed.cells if cell not in slower):
        yield Note(f"against FP16 in {speed.runtime}: {speed.told(others)}")


def _instead(report: Report, speed: GpuSpeed) -> str:
    """What else there is."""
    faster = report.precision == "int8" and report.optimize == "accuracy"
    take = f"Take {speed.baseline} for such shapes"
    return f"{take}, or convert with --optimize latency." if faster else f"{take}."


def _engines(report: Report) -> Iterator[str]:
    ran = "run here" if any(engine.executed for engine in report.engines) else "not run here"
    yield f"engines: {report.engines[0].builder}, FP16 for what is not {report.precision.upper()}; {ran}"
    plans = [engine.plan for engine in report.engines]
    fused = {plan.target: plan.describe_conditioning() for plan in plans if plan.conditioning}
    if len(set(fused.values())) == 1:  # one line, unless they differ
        fused = {"conditioning": next(iter(fused.values()))}
    yield from (f"{name}: {text}" for name, text in fused.items())
    yield from (f"{plan.target}: {plan.describe_host_driven()}" for plan in plans if plan.host_driven)
