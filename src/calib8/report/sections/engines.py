"""Whether the compiler planned what the model asks for."""

from collections.abc import Sequence
from dataclasses import replace

from calib8.engine.plan_check import PlanCheck
from calib8.report.report import Conversion, EngineFacts
from calib8.report.section import Cell, Column, Note, Section, Table, Tile
from calib8.report.verification import VerificationReport
from calib8.report.wording import size_of

TERMS = {
    "ops planned": "The compiler's own list of kernels shows that these ops multiply INT8 by INT8, or FP8 by FP8.",
}
#: Where ops are conditioned at all.
CONDITIONING = {
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
    """What each engine is and what its plan holds; ops that it does not run in 8 bits, and why."""
    plans = [engine.plan for engine in engines]
    told = plans[0].precision.upper()
    conditioned = any(plan.conditioning for plan in plans)
    columns = (
        Column("target"),
        Column("file", on="page"),
        Column("size", size_of),
        Column(f"{told} ops planned", align="right", terminal=f"{told} ops planned/expected"),
        Column(f"{told} kernels", "{:d}"),
        Column("executed here"),
        *((Column("conditioning", on="page"),) if conditioned else ()),
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
        )[: len(columns)]
        for engine in engines
    )
    tables = [Table("Engines", columns, rows)]
    if missing := tuple((plan.target, name, plan.reasons.get(name)) for plan in plans for name in plan.missing):
        head = (Column("target"), Column("op"), Column("likely reason"))
        tables.append(Table(f"Ops that the engine does not run in {told}", head, missing, on="page"))
    loops = (f"{plan.target}: {plan.describe_host_driven()}." for plan in plans if plan.host_driven)
    notes = tuple(Note(text, on="page") for text in (f"Built by {engines[0].builder}.", *loops))
    terms = TERMS | (CONDITIONING if conditioned else {})
    return Section("Engines", notes, tables=tuple(tables), terms=terms)


def engine_tiles(engines: Sequence[EngineFacts]) -> tuple[Tile, ...]:
    """How many engines run what they should in 8 bits, and whether that was seen or planned only."""
    if not engines:
        return ()
    ran = "executed here" if all(engine.executed for engine in engines) else "planned, not run"
    first = engines[0].plan
    told = first.precision.upper()
    if len(engines) == 1:
        return (Tile("ops in the engine", f"{first.covered} of {first.expected}", f"{told}, {ran}"),)
    whole = sum(not engine.plan.missing for engine in engines)
    return (Tile(f"engines in {told}", f"{whole} of {len(engines)}", ran),)


def _planned(plan: PlanCheck) -> Cell:
    text, terminal = f"{plan.covered} of {plan.expected}", f"{plan.covered}/{plan.expected}"
    if not plan.passed:
        text, terminal = f"{text}, FAILED", f"{terminal} FAILED"
    return Cell(text, plan.covered, terminal=terminal)
