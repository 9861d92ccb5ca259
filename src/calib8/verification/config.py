"""Options of verification."""

from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator

from calib8.config import Config, Option
from calib8.gpu.config import Monitored
from calib8.verification.named import USUAL, KindName, Least, OutputKind, leasts, output_kinds


class OutputKinds(Config):
    """What a model's outputs are."""

    output_kinds: Annotated[tuple[OutputKind, ...], Option("--output-kind", metavar="NAME=KIND")] = ()
    """What an output is, where calib8 guesses wrong: vectors, classes, number, boxes, maps, ids, sequences.

    A mapping, or texts such as ``"logits=classes"``.
    """

    @property
    def kinds(self) -> dict[str, KindName]:
        """``output_kinds`` by the name of the output."""
        return {one.name: one.kind for one in self.output_kinds}

    @field_validator("output_kinds", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        return output_kinds(value)


class Verify(OutputKinds):
    """Limits of a verification, for every output of the model. None means: report, do not judge."""

    standard: bool = False
    """Hold outputs of which nothing else is asked to what is usual for their kind.

    As ``convert`` does; ``verification.named`` has the numbers.
    """
    require: Annotated[tuple[Least, ...], Option(metavar="NAME=NUMBER")] = ()
    """Fail below this mean score: of a kind of outputs, or of one by its name.

    A mapping, or texts such as ``"boxes=0.98"``; see ``verification.kinds``.
    """
    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    """Fail below this mean cosine to FP32, of outputs that are vectors."""
    min_p1: float | None = Field(default=None, ge=-1, le=1)
    """Fail below this 1st percentile of cosine."""
    min_neighbours: float | None = Field(default=None, ge=0, le=1)
    """Fail below this share of unchanged nearest neighbours."""
    min_sqnr_db: float | None = Field(default=None, allow_inf_nan=False)
    """Fail below this signal to quantisation noise ratio in dB; sees wrong scales too.

    Cosines do not see a candidate that is a thousand times too large; this does.
    """
    max_spearman_loss: float | None = Field(default=None, ge=0)
    """Fail above this loss of 100 x Spearman."""

    def least(self, output: str, kind: KindName, *, cosine: bool = False) -> float | None:
        """The least mean score of an output: what is asked of it, or of its kind, or what is usual; None if nothing.

        ``cosine``: count ``min_cosine``, which ``Comparison.judged`` has beside.
        """
        asked = [one for one in self.require if one.means(output, kind)]
        if asked:
            return next((one for one in reversed(asked) if one.name == output), asked[-1]).least
        if kind == "vectors" and self.min_cosine is not None:
            return self.min_cosine if cosine else None
        return USUAL[kind] if self.standard else None

    @property
    def judges(self) -> bool:
        """Whether there is a limit."""
        return bool(self.asked().keys() - {"output_kinds"})

    @field_validator("require", mode="before")
    @classmethod
    def _least(cls, value: Any) -> Any:
        return leasts(value)


class Bench(Monitored):
    """What to measure: every batch size with every length."""

    batches: Annotated[tuple[PositiveInt, ...], Option(metavar="1,8,32", text=True)] = Field((1, 8), min_length=1)
    """Batch sizes."""
    lengths: Annotated[tuple[PositiveInt, ...], Option(metavar="16,128", text=True)] = ()
    """Sequence lengths; default: that of the median sample."""
    seconds: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    """Time for each artefact and shape."""
    least: PositiveInt = 5
    """Rounds for each artefact and shape, however long they take."""
    warm_up: PositiveInt = 3
    """Rounds before those that count."""
    profile: bool = False
    """Show where an engine's time goes: TensorRT's profiler times its kernels."""

    @field_validator("batches", "lengths", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """``"1,8"`` -> ``(1, 8)``; anything but text is left to the field."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(part) for part in value.split(",") if part.strip())
        except ValueError:
            raise ValueError("expected whole numbers such as 1,8,32") from None
