"""What a ranges file says of FP16, for those who need no more of it: where nothing is quantised."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.config import first_problem
from calib8.errors import InputError, RangesError
from calib8.files import read_json
from calib8.graph.io import SOURCE_SHA256
from calib8.passes.reach import Reach
from calib8.provenance import Origin

_Content = TypeVar("_Content", bound=BaseModel)


class Unheld(BaseModel):
    """The part of a ranges file that tells what FP16 does not hold (``beyond``) of which model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["calib8.ranges/1"] = "calib8.ranges/1"
    origin: Origin
    beyond: dict[str, Reach] = {}


def unheld_of(path: Path, model: ir.Model) -> dict[str, Reach]:
    """What FP16 does not hold of ``model``, by the ranges file at ``path``.

    Raises ``RangesError`` for a file that is none, or of another model.
    """
    found, _ = read_ranges(path, Unheld)
    require_made_from(found.origin, model)
    return found.beyond


def read_ranges(path: Path, kind: type[_Content]) -> tuple[_Content, Any]:
    """What the ranges file at ``path`` holds of ``kind``, and the hash that was written into it.

    Raises ``RangesError``.
    """
    try:
        content = read_json(path, "ranges file")
        written = content.pop("sha256", None) if isinstance(content, dict) else None
        return kind.model_validate(content), written
    except ValidationError as error:
        raise RangesError(f"{path} is not a calib8 ranges file: {first_problem(error)}. Calibrate again.") from None
    except InputError as error:
        raise RangesError(str(error)) from None


def require_made_from(origin: Origin, model: ir.Model) -> None:
    """Raise ``RangesError`` if ranges of this ``origin`` were made from another file than ``model``."""
    own, theirs = model.metadata_props.get(SOURCE_SHA256), origin.model_sha256
    if own and theirs and own != theirs:
        raise RangesError(
            f"the ranges were made from another model: its SHA-256 begins with {theirs[:12]}, this one's with "
            f"{own[:12]}. Calibrate this one; ranges do not survive retraining."
        )
