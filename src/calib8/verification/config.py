"""Options of verification."""

from pydantic import Field, PositiveInt

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


class Bench(Config):
    """What to measure: every batch size with every length, each for ``seconds`` and at least ``least`` rounds.

    Without ``lengths`` a sequence is as long as the median sample of the data. Warm-up runs do not count. ``profile``:
    time the kernels of engines, too.
    """

    batches: tuple[PositiveInt, ...] = Field(default=(1, 8), min_length=1)
    lengths: tuple[PositiveInt, ...] = ()
    seconds: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    least: PositiveInt = 5
    warm_up: PositiveInt = 3
    monitor: bool = False
    profile: bool = False
