"""Options of verification."""

from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator

from calib8.config import Config, Option
from calib8.gpu.config import Monitored


class Verify(Config):
    """Limits of a verification, for every output of the model. None means: report, do not judge."""

    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    """Fail below this mean cosine to FP32."""
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
