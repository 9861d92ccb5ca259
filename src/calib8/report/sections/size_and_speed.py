"""How much smaller and faster the quantised model is on this CPU."""

from calib8.report.report import Conversion
from calib8.report.section import Column, Note, Section, Table
from calib8.report.wording import cpu_speed, size_of


def conversion(made: Conversion) -> Section:
    """Both models' files, and how fast they ran if that was measured."""
    report, told = made.report, made.report.precision.upper()
    size = Table(
        "Size",
        (Column("model"), Column("file"), Column("size", size_of), Column("of FP32", "{:.0%}")),
        tuple(
            (role, file.name, file.bytes, file.bytes / report.model.bytes)
            for role, file in (("FP32", report.model), (told, report.int8))
        ),
    )
    if (speed := report.speed) is None:
        return Section("Size and speed", tables=(size,), on="page")
    measured = Table(
        "Speed on the CPU",
        (Column("model"), Column("sentences/s", "{:.1f}"), Column("ratio", "{:.2f}x"), Column("runtime")),
        (
            ("FP32", speed.reference, 1.0, speed.reference_runtime),
            (told, speed.candidate, speed.ratio, speed.candidate_runtime),
        ),
    )
    depends = Note(f"{' '.join(cpu_speed(report))}.")
    return Section("Size and speed", (depends,), tables=(size, measured), on="page")
