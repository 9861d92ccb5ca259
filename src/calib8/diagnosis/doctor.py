"""Facts and verdicts together: what ``calib8 doctor`` says."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.diagnosis.facts import Facts
from calib8.diagnosis.probe import look
from calib8.diagnosis.verdicts import Verdict, verdicts
from calib8.progress import Progress, Quiet


class Diagnosis(BaseModel):
    """What a machine has, and what works on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.doctor/1"] = "calib8.doctor/1"
    facts: Facts
    verdicts: tuple[Verdict, ...]


def doctor(*, progress: Progress | None = None) -> Diagnosis:
    """What this machine has, what of calib8 works on it, and what to do about the rest.

    Takes seconds, raises nothing and makes no CUDA context. ``progress`` is told of each fact as it is found.

    Example:

        >>> found = calib8.doctor()
        >>> {verdict.what: verdict.works for verdict in found.verdicts}["build, TensorRT-RTX"]
        True
    """
    facts = look(progress or Quiet())
    return Diagnosis(facts=facts, verdicts=verdicts(facts))
