"""What doctor found, for a terminal of 80 columns."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from calib8.diagnosis.doctor import Diagnosis
from calib8.diagnosis.facts import Facts
from calib8.diagnosis.verdicts import Verdict
from calib8.engine.targets import ARCHITECTURES
from calib8.report.lines import lines


def render_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """The machine, its libraries, and what works."""
    return Group(_facts(diagnosis.facts), _verdicts(diagnosis.verdicts))


def _facts(facts: Facts) -> Table:
    table = Table(title="This machine", title_justify="left", title_style="bold", show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, value in _lines(facts):
        table.add_row(name, lines(value))
    return table


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "calib8", f"{facts.calib8}, Python {facts.python}, {facts.system}"
    cpu = facts.processor
    units = ", ".join(f"{name} {_said(there)}" for name, there in (("VNNI", cpu.vnni), ("AMX", cpu.amx)))
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


def _verdicts(verdicts: tuple[Verdict, ...]) -> Table:
    table = Table(title="What works here", title_justify="left", title_style="bold", show_header=False)
    table.add_column("", overflow="fold", max_width=28)
    table.add_column("")
    table.add_column("", overflow="fold")
    for verdict in verdicts:
        works = lines("yes", style="green") if verdict.works else lines("no", style="red")
        table.add_row(verdict.what, works, lines(verdict.remark))
    return table


def _said(there: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[there]


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
