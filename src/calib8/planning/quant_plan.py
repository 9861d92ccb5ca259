"""The quantisation plan: one line per weighted op, with the treatment and the reason."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.files import write_json


class OpPlan(BaseModel):
    """What is done to one weighted op. ``sqnr_db`` is what a typical position of its input keeps in INT8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    kind: str
    input: str
    treatment: Literal["int8", "float"]
    reason: str
    amax: float | None
    sqnr_db: float | None


class QuantPlan(BaseModel):
    """The treatment of every weighted op, in graph order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.plan/1"] = "calib8.plan/1"
    ops: tuple[OpPlan, ...]

    def nodes(self, treatment: Literal["int8", "float"]) -> list[str]:
        """Names of the nodes with that treatment."""
        return [op.node for op in self.ops if op.treatment == treatment]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())
