"""What the GPU adds to the error of 8 bits."""

from dataclasses import replace

from calib8.report.report import Conversion
from calib8.report.section import Note, Section
from calib8.report.sections.accuracy import closeness_table
from calib8.report.verification import VerificationReport


def conversion(made: Conversion) -> Section | None:
    """The engine that ran here, as the model was judged on the CPU; the terminal has it in its summary."""
    if (accuracy := made.report.engine_accuracy) is None:
        return None
    note = Note(f"On the same data, the engine on the GPU: {accuracy.runtime}.")
    return Section("On the GPU", (note,), tables=(closeness_table("The engine against FP32", accuracy),), on="page")


def verification(report: VerificationReport) -> Section | None:
    """The engine against the quantised model that it was built from, where that was found."""
    if report.gpu is None or report.gpu.against_int8 is None:
        return None
    note = (
        f"The engine against {report.gpu.int8_model}, from which it was built, on the CPU: what FP16 and the GPU's own "
        "kernels add to the error of 8 bits."
    )
    heading = f"{report.candidate.name} on the GPU against {report.gpu.int8_model} on the CPU"
    table = replace(closeness_table("Same model", report.gpu.against_int8), terminal=heading)
    return Section("GPU against CPU", (Note(note, on="page"),), tables=(table,))
