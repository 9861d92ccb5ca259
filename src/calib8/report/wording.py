"""What several sections say, in the same words."""

from collections.abc import Sequence
from itertools import takewhile

from calib8.report.report import Report
from calib8.report.verification import VerificationReport


def measured_on(report: Report | VerificationReport) -> str:
    """Which samples an accuracy is of; those of the calibration are no proof."""
    seen = isinstance(report, Report) and report.measured_on_calibration_data
    no_proof = ", the calibration data itself: no proof" if seen else ""
    return f"{report.accuracy.samples} samples from {report.held_out}{no_proof}"


def cpu_speed(report: Report) -> tuple[str, ...]:
    """Which units of the CPU the speed of INT8 depends on; where it is slower than FP32, that nothing follows."""
    if report.precision != "int8":
        told = report.precision.upper()
        return (f"no CPU has units for {told}: its codes are multiplied in FP32, so nothing follows for a GPU",)
    units = (("VNNI", report.machine.vnni), ("AMX", report.machine.amx))
    there = ", ".join(f"{name} {known(value)}" for name, value in units)
    said = f"CPU speed depends on INT8 units: {there}"
    if report.speed is None or report.speed.ratio >= 1:
        return (said,)
    return (f"{said}.", "INT8 is slower than FP32 on this CPU: no verdict on accuracy, nor on a GPU")


def in_runtime(description: str) -> str:
    """A runtime with its arithmetic: on the CPU FP32, unless it says so itself, or that ``calib8 tune`` chose bf16."""
    said = ("for what is not INT8", "codes multiplied in FP32", "FP16")
    says_it = "on CPU" not in description or any(words in description for words in said)
    return description if says_it else f"{description}, with FP32 for what is not INT8"


def known(there: bool | None) -> str:
    """Whether a machine has something, as far as anybody knows."""
    return {True: "yes", False: "no", None: "unknown"}[there]


def size_of(size: float) -> str:
    """For people: ``127 MB``, ``621 kB``, ``80 bytes``."""
    if size < 1e3:
        return f"{size} bytes"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e3:,.0f} kB"


def shared_path(names: Sequence[str]) -> str:
    """The path that all names begin with, up to its last slash: repeated in every row it would fill a table."""
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split("/")[:-1] for name in names), strict=False))
    below = "".join(f"{parts[0]}/" for parts in same)
    return below if len(names) > 1 and len(below) > 1 else ""
