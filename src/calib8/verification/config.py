"""Options of verification."""

from pydantic import Field

from calib8.config import Config


class Verify(Config):
    """Limits of a verification, for every output of the model. None means: report, do not judge.

    Cosines do not see a candidate that is a thousand times too large; ``min_sqnr_db`` does.
    """

    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    min_p1: float | None = Field(default=None, ge=-1, le=1)
    min_neighbours: float | None = Field(default=None, ge=0, le=1)
    min_sqnr_db: float | None = Field(default=None, allow_inf_nan=False)
    max_spearman_loss: float | None = Field(default=None, ge=0)
