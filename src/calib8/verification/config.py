"""Options of verification."""

from pydantic import Field

from calib8.config import Config


class Verify(Config):
    """Limits of a verification. None means: report, do not judge."""

    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    min_p1: float | None = Field(default=None, ge=-1, le=1)
    min_neighbours: float | None = Field(default=None, ge=0, le=1)
    max_spearman_loss: float | None = Field(default=None, ge=0)
