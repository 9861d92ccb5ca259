"""What is kept beside a quantised model, in ``<model>.json``."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.errors import InputError
from calib8.files import read_json, write_json
from calib8.verification.gains import Gains


class Record(BaseModel):
    """The model's hash, and what INT8 was found to gain in it, if that was timed.

    Another tool that rewrites the model keeps what it says of itself: only a hash tells the two apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.model/1"] = "calib8.model/1"
    sha256: str
    gains: Gains | None = None

    @staticmethod
    def of(model: Path) -> "Record | None":
        """The record of ``model``; None if there is none, or none that calib8 wrote."""
        try:
            return Record.model_validate(read_json(_beside(model), "record of a quantised model"))
        except (InputError, ValidationError):
            return None

    def save(self, model: Path) -> None:
        """Write it beside ``model``, atomically."""
        untimed = {"gains"} if self.gains is None else None
        write_json(_beside(model), self.model_dump(mode="json", exclude=untimed))


def _beside(model: Path) -> Path:
    return model.with_name(f"{model.name}.json")
