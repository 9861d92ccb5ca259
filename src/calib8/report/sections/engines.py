"""Whether the compiler planned what the model asks for."""

from collections.abc import Sequence
from dataclasses import replace

from calib8.engine.plan_check import PlanCheck
from calib8.report.report import Conversion, EngineFacts
from calib8.report.section import Cell, Column, Note, Section, Table, Tile
from calib8.report.verification import VerificationReport
from calib8.report.wording import size_of

TERMS = {
    "planned in INT8": "The compiler's own list of kernels shows that these ops multiply INT8 by INT8.",
    "conditioning": "Whether the compiler fused what the recipes do into kernels that compute something else too. That "
    "saves kernels, not all of the time: what it costs is measured on the GPU. A norm that takes a second kernel and a "
    "node that is not fused are named, and cost more.",
}


def conversion(made: Conversion) -> Section:
    """Every engine that was built, or that there is none."""
    if made.report.engines:
        return engines_section(made.report.engines)
    return Section("Engines", (Note("No engine was made.", terminal="no engine was made"),), terms=TERMS)


def verification(report: VerificationReport) -> Section | None:
    """The candidate, if it is an engine."""
    return replace(engines_section([report.engine]), on="page") if report.engine is not None else None


def engines_section(engines: Sequence[EngineFacts]) -> Section:
    """What each engine is and what its plan holds; ops that it does not run in INT8, and why."""
    columns = (
        Column("target"),
        Column("file", on="page"),
        Column("size", size_of),
        Column("INT8 ops planned", align="right", terminal="INT8 ops planned/expected"),
        Column("INT8 kernels", "{:d}"),
        Column("executed here"),
        Column("conditioning", on="page"),
    )
    rows = tuple(
        (
            engine.target,
            engine.file.name,
            engine.file.bytes,
            _planned(engine.plan),
            engine.plan.planned_kernels,
            "yes" if engine.executed else "no",
            engine.plan.describe_conditioning() if engine.plan.conditioning else "",
        )
        for engine in engines
    )
    tables = [Table("Engines", columns, rows)]
    plans = [engine.plan for engine in engines]
    if missing := tuple((plan.target, name, plan.reasons.get(name)) for plan in plans for name in plan.missing):
        head = (Column("target"), Column("op"), Column("likely reason"))
        tables.append(Table("Ops that the engine does not run in INT8", head, missing, on="page"))
    loops = (f"{plan.target}: {plan.describe_host_driven()}." for plan in plans if plan.host_driven)
    notes = tuple(Note(text, on="page") for text in (f"Built by {engines[0].builder}.", *loops))
    return Section("Engines", notes, tables=tuple(tables), terms=TERMS)


def engine_tiles(engines: Sequence[EngineFacts]) -> tuple[Tile, ...]:
    """How many engines run what they should in INT8, and whether that was seen or planned only."""
    if not engines:
        return ()
    ran = "executed here" if all(engine.executed for engine in engines) else "planned, not run"
    if len(engines) == 1:
        return (Tile("ops in the engine", f"{engines[0].plan.covered} of {engines[0].plan.expected}", f"INT8, {ran}"),)
    whole = sum(not engine.plan.missing for engine in engines)
    return (Tile("engines in INT8", f"{whole} of {len(engines)}", ran),)


def _planned(plan: PlanCheck) -> Cell:
    text, terminal = f"{plan.covered} of {plan.expected}", f"{plan.covered}/{plan.expected}"
    if not plan.passed:
        text, terminal = f"{text}, FAILED", f"{terminal} FAILED"
    return Cell(text, plan.covered, terminal=terminal)
