"""The sizes of dimensions in calibration data, kept in the quantised model: engines are built for those."""

import onnx_ir as ir
from pydantic import PositiveInt, TypeAdapter, ValidationError

from calib8.config import first_problem
from calib8.data.inputs import Sizes
from calib8.errors import ModelError
from calib8.files import parse_json

#: metadata_props key: JSON, name of a dimension -> [least, usual, largest].
SIZES = "calib8.sizes"
_FORM = TypeAdapter(dict[str, tuple[PositiveInt, PositiveInt, PositiveInt]])


def record_sizes(model: ir.Model, sizes: Sizes) -> None:
    """Write ``sizes`` into ``model``."""
    model.metadata_props[SIZES] = _FORM.dump_json(dict(sizes)).decode()


def recorded_sizes(model: ir.Model) -> Sizes:
    """What ``record_sizes`` wrote; nothing if nothing did. Raises ``ModelError`` if it is no longer that."""
    if SIZES not in model.metadata_props:
        return {}
    try:
        return _FORM.validate_python(parse_json(model.metadata_props[SIZES]))
    except ValueError as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise ModelError(
            f"what calib8 wrote into the model as {SIZES!r} is damaged: {reason}. Quantise again."
        ) from None
