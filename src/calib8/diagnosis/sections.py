"""What doctor found, for a terminal of 80 columns."""

from collections.abc import Iterator

from calib8.diagnosis.facts import Facts
from calib8.diagnosis.verdicts import Verdict
from calib8.engine.targets import ARCHITECTURES
from calib8.report.section import Cell, Column, Section, Table
from calib8.report.wording import known


def machine_section(facts: Facts) -> Section:
    """The machine and its libraries."""
    columns = (Column("", wrap="never"), Column("", wrap="anywhere"))
    return Section("Machine", tables=(Table("This machine", columns, tuple(_lines(facts))),))


def verdicts_section(verdicts: tuple[Verdict, ...]) -> Section:
    """What works, and why not or what to do."""
    columns = (Column("", wrap="anywhere", widest=28), Column(""), Column("", wrap="anywhere"))
    yes, no = Cell("yes", style="green"), Cell("no", style="red")
    rows = tuple((verdict.what, yes if verdict.works else no, verdict.remark) for verdict in verdicts)
    return Section("Verdicts", tables=(Table("What works here", columns, rows),))


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "calib8", f"{facts.calib8}, Python {facts.python}, {facts.system}"
    cpu = facts.processor
    units = ", ".join(f"{name} {known(there)}" for name, there in (("VNNI", cpu.vnni), ("AMX", cpu.amx)))
    yield "CPU", f"{cpu.name}, cores: {cpu.cores}; {units}"
    yield "memory", f"{_gb(cpu.memory_total_bytes)}, {_gb(cpu.memory_available_bytes)} free"
    driver = facts.driver
    yield "driver", driver.problem or f"{driver.version}, CUDA up to {driver.cuda or 'unknown'}"
    for gpu in driver.gpus:
        family = ARCHITECTURES.get(gpu.target, "").partition(":")[0]
        memory = f"{_gb(gpu.memory_total_bytes)}, {_gb(gpu.memory_free_bytes)} free"
        divided = f"; MIG: {', '.join(gpu.mig)}" if gpu.mig else ""
        yield "GPU", f"{gpu.name}, {gpu.target} {family}; {memory}{divided}"
    for library in facts.libraries.values():
        told = [f"{name} {value}" for name, value in library.details.items() if value]
        yield library.package, library.problem or ", ".join([library.version or "", *told])


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
