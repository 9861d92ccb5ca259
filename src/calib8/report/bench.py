"""The report of a benchmark: what was measured, and where."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.files import write_json
from calib8.gpu.activity import Activity
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
