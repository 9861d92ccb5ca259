"""Options of a conversion."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import field_validator

from calib8.calibration.config import Calibrate
from calib8.cluster.config import Ray
from calib8.config import Option
from calib8.engine.config import Build
from calib8.gpu.config import Monitored
from calib8.quantization.config import Quantize
from calib8.verification.config import Verify
from calib8.verification.named import Least, least_of


class Convert(Monitored):
    """What a conversion does; the options of each step are its own config."""

    calibrate: Calibrate = Calibrate()
    """How ranges are found."""
    quantize: Quantize = Quantize()
    """What is quantised, and to what."""
    build: Build | None = Build()
    """How engines are built; None makes none."""
    verify: Verify = Verify(standard=True)
    """What accuracy is held to."""
    held_out: Path | None = None
    """Arrays or text to measure on; default: hold calibration data back.

    Every eighth sample of it.
    """
    pairs: Path | None = None
    """CSV of sentence1, sentence2, score, for Spearman's correlation."""
    budget: Annotated[Least | None, Option(metavar="NAME=NUMBER", text=True)] = None
    """Search the cheapest plan that keeps this mean score: cosine=0.999, of a kind of outputs, or of one by its name.

    Text such as ``"boxes=0.98"``, or a number, which is one of cosine. Every eighth calibration sample is then held
    back from fitting, to measure on.
    """
    sentences: bool = True
    """Quote the worst ten held-out sentences in the report."""
    baseline: Annotated[bool, Option("--baseline/--no-baseline")] = True
    """Where this machine's GPU runs an engine, build one in FP16, too, and time the two by turns.

    For latency kernel by kernel as well, and what INT8 does not speed up stays in FP16, see ``verification.gains``.
    """
    ray: Ray | None = None
    """The cluster to calibrate over; the model is the same.

    See ``calibration.over_ray``.
    """

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: Any) -> Any:
        return least_of(value, above=0)

    def decided(self) -> "Convert":
        """With nothing left open: an INT8 engine is to be fast, what is measured on a CPU alone is to be accurate."""
        quantize = self.quantize
        if self.build is None or quantize.optimize is not None or not quantize.grid.even:
            return self
        return self.model_copy(update={"quantize": quantize.model_copy(update={"optimize": "latency"})})
