"""The report of a benchmark: as JSON, and as a table that fits 80 columns."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table

from calib8.files import write_json
from calib8.gpu.activity import Activity
from calib8.report.activity import render_activity
from calib8.report.breakdown import render_breakdown
from calib8.report.lines import lines
from calib8.report.report import Machine
from calib8.verification.bench import Cell
from calib8.verification.breakdown import Breakdown


class BenchReport(BaseModel):
    """What was measured where. ``runtimes`` says for each artefact what ran it; the first is what ratios refer to.

    ``breakdowns`` tell of engines' kernels, if that was asked for; there ratios are to the first engine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.bench/1"] = "calib8.bench/1"
    created: str
    calib8: str
    machine: Machine
    runtimes: dict[str, str]
    cells: tuple[Cell, ...]
    breakdowns: tuple[Breakdown, ...] = ()
    activity: Activity | None = None

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))


def render_bench(report: BenchReport) -> RenderableType:
    """The cells, what ran each artefact, where engines' time goes, and what the GPU did."""
    runs = (lines(f"{name}: {runtime}") for name, runtime in report.runtimes.items())
    activity = [render_activity(report.activity)] if report.activity is not None else []
    breakdowns = map(render_breakdown, report.breakdowns)
    return Group(render_cells(report.cells, report.runtimes), *runs, *breakdowns, *activity)


def render_cells(cells: tuple[Cell, ...], runtimes: Mapping[str, str] | None = None) -> Table:
    """One line for each shape and artefact; ``runtimes`` says what ran each."""
    table = Table(
        title="Latency of one batch", title_justify="left", title_style="bold", box=SIMPLE, collapse_padding=True
    )
    for name in ("batch", "length"):
        table.add_column(name, justify="right")
    table.add_column("artefact", overflow="fold")
    for heading in (("median", "ms"), ("p95", "ms"), ("p99", "ms"), ("samples", "/s"), ("ratio",)):
        table.add_column(lines(*heading), justify="right")
    for cell in cells:
        for name, latency in cell.latencies.items():
            times = (f"{value:.2f}" for value in (latency.median_ms, latency.p95_ms, latency.p99_ms))
            rate, ratio = f"{latency.samples_per_second:,.0f}", f"{cell.ratio(name):.2f}x"
            what = [name, f"in {_title(runtimes[name])}"] if runtimes else [name]
            table.add_row(str(cell.batch), str(cell.length or ""), lines(*what), *times, rate, ratio)
        table.add_section()
    return table


def _title(description: str) -> str:
    """``OpenVINO 2026.4.1 on CPU`` -> ``OpenVINO``."""
    return re.split(r" v?\d", description)[0]
