"""What a build gives back."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from calib8.engine.options import QUANTISED, EnginePrecision
from calib8.engine.plan_check import PlanCheck


class BuiltEngine(BaseModel):
    """An engine that was written, and its plan."""

    model_config = ConfigDict(frozen=True)

    path: Path
    target: str
    size_bytes: int
    seconds: float
    plan: PlanCheck
    precision: EnginePrecision = "int8"

    def describe(self) -> str:
        """For people: what it computes in."""
        return self.plan.describe() if self.precision in QUANTISED else f"computes in {self.precision.upper()}"
