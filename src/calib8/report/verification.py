"""The report of a verification: how close a candidate is to its reference, and whether that was close enough."""

from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.errors import AccuracyMissed
from calib8.files import write_json
from calib8.report.report import EngineFacts, FileFacts, Machine, engine_facts, file_facts, this_machine
from calib8.runtime.open import is_engine
from calib8.verification.compare import Comparison
from calib8.verification.config import Verify
from calib8.verification.on_gpu import GpuComparison


class VerificationReport(BaseModel):
    """What a verification found, and its verdict.

    ``passed`` is None where no limit was given. ``engine`` is what is known of a candidate that is one, ``gpu`` what
    else was found where it ran on request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.verification/1"] = "calib8.verification/1"
    passed: bool | None
    failure: str | None
    created: str
    calib8: str
    machine: Machine
    reference: FileFacts
    candidate: FileFacts
    held_out: str
    limits: Verify
    accuracy: Comparison
    engine: EngineFacts | None = None
    gpu: GpuComparison | None = None

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))


def verdict(
    reference: Path,
    candidate: Path,
    held_out: Path,
    comparison: Comparison,
    limits: Verify,
    *,
    on_gpu: GpuComparison | None = None,
) -> VerificationReport:
    """What ``compare`` or ``compare_on_gpu`` found just now, judged by ``limits``; a missed one is told, not raised.

    Example:

        >>> model, int8, texts = Path("model.onnx"), Path("model.int8.onnx"), Path("held_out.txt")
        >>> found = calib8.compare(model, int8, texts)
        >>> calib8.verdict(model, int8, texts, found, calib8.Verify(min_cosine=0.99)).passed
        True
    """
    failure = None
    try:
        comparison.raise_for_failure(limits)
    except AccuracyMissed as error:
        failure = str(error)
    return VerificationReport(
        passed=failure is None if limits.judges else None,
        failure=failure,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        calib8=version("calib8"),
        machine=this_machine(),
        reference=file_facts(reference),
        candidate=file_facts(candidate),
        held_out=str(held_out),
        limits=limits,
        accuracy=comparison,
        engine=engine_facts(candidate, executed=True) if is_engine(candidate) else None,
        gpu=on_gpu,
    )
