"""The quantisation plan: one line per weighted op, with the treatment and the reason."""

from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, ValidationError

from calib8.config import first_problem
from calib8.errors import InputError, ModelError
from calib8.files import parse_json, read_json, write_json
from calib8.precision import Precision

#: Reasons that are told of ops that stay in float; the plan has all.
REASONS = 3
Treatment: TypeAlias = Literal[Precision, "float"]
Record = TypeVar("Record", bound=BaseModel)


def recorded(kind: type[Record], model: ir.Model, key: str) -> Record | None:
    """What calib8 wrote into ``model`` as JSON under ``key`` of its ``metadata_props``; None if nothing is there.

    Raises ``ModelError`` if it is no longer that.
    """
    if key not in model.metadata_props:
        return None
    try:
        return kind.model_validate(parse_json(model.metadata_props[key]))
    except ValueError as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise ModelError(f"what calib8 wrote into the model as {key!r} is damaged: {reason}. Quantise again.") from None


class OpPlan(BaseModel):
    """What is done to one weighted op.

    recipe: how its input is conditioned before the grid, None where ranges alone decided.
    extra_columns: columns that outlier channel splitting, or stairs, add to the GEMM.
    side_channels: channels that go around INT8, which its grid does not hold.
    amax: of the input as calibration saw it; a recipe has a grid of its own.
    sqnr_db: what is left of the signal: of the op's output on held-out rows where there is a recipe, of a typical
        position of its input otherwise.
    expected_cosine: of the model's output to FP32 with this op alone quantised, where that was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    kind: str
    input: str
    treatment: Treatment
    reason: str
    amax: float | None
    sqnr_db: float | None
    recipe: str | None = None
    extra_columns: int = 0
    side_channels: int = 0
    expected_cosine: float | None = None


class Budget(BaseModel):
    """What the plan had to keep, and what it kept of it on ``samples`` calibration samples that nothing was fitted to.

    ``name`` is the kind or the output that was asked for, ``score`` what is measured of it, ``least`` what was asked,
    ``reached`` the mean score, ``standard_error`` that of the mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    score: str = "cosine"
    least: float
    reached: float
    standard_error: float
    samples: int


class Gelu(BaseModel):
    """``ops`` GELUs that became one op each: exact (``none``), or by ``tanh``, which alone leaves the model's float
    output a mean score of ``cosine`` beside FP32: a ``score``, cosine of vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ops: int
    approximate: Literal["none", "tanh"]
    cosine: float
    score: str = "cosine"

    def describe(self) -> str:
        """For people."""
        cost = f"{1 - self.cosine:.1e} of {self.score} in float"
        if self.approximate == "tanh":
            return f"GELU is one op ({self.ops} of them), by tanh, which costs {cost}"
        return f"GELU is one op ({self.ops} of them), exact: tanh would cost {cost}"


class QuantPlan(BaseModel):
    """The treatment of every weighted op, in graph order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.plan/1"] = "calib8.plan/1"
    ops: tuple[OpPlan, ...]
    budget: Budget | None = None
    gelu: Gelu | None = None

    def nodes(self, treatment: Treatment) -> list[str]:
        """Names of the nodes with that treatment."""
        return [op.node for op in self.ops if op.treatment == treatment]

    @property
    def quantised(self) -> list[str]:
        """Names of the nodes that do not stay in float."""
        return [op.node for op in self.ops if op.treatment != "float"]

    def describe_float(self) -> str | None:
        """How many ops stay in float, and why, the most frequent reasons first, for people; None if none does."""
        left = [op for op in self.ops if op.treatment == "float"]
        if not left:
            return None
        alike: dict[str, list[OpPlan]] = {}
        for op in left:
            alike.setdefault(op.reason, []).append(op)
        most = sorted(alike.items(), key=lambda item: -len(item[1]))
        told = [f"{len(ops)} {ops[0].kind}, as {ops[0].node!r}: {reason}" for reason, ops in most[:REASONS]]
        more = f"; {len(most) - REASONS} more reasons" if len(most) > REASONS else ""
        return f"{len(left)} of {len(self.ops)} ops with weights stay in float: {'; '.join(told)}{more}"

    @property
    def precision(self) -> Precision:
        """What these multiply: there is one such type in a model."""
        return next((op.treatment for op in self.ops if op.treatment != "float"), "int8")

    @staticmethod
    def load(path: Path) -> "QuantPlan":
        """Read back what ``save`` wrote. Raises ``InputError``."""
        try:
            return QuantPlan.model_validate(read_json(path, "plan"))
        except ValidationError as error:
            raise InputError(f"{path} is not a calib8 plan: {first_problem(error)}. Quantise again.") from None

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())
