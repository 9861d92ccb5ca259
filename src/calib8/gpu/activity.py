"""What a GPU did while work ran: samples in bounded memory, and their mean and maximum over every reading."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from calib8.files import write_json

#: Samples kept at most: two minutes at ten a second, then every second one, every fourth one, ….
CAPACITY = 1200


class Sample(BaseModel):
    """One reading, ``seconds`` after the start; None is what the GPU or the driver does not tell.

    Utilisation is the share of NVML's own last sample period (1/6 to 1 s) in which a kernel ran, or memory was read or
    written. ``memory_used_bytes`` includes what the driver reserves. ``process_…`` is this process with its children.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    gpu_utilisation_percent: float | None = None
    memory_utilisation_percent: float | None = None
    memory_used_bytes: int | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    process_utilisation_percent: float | None = None
    process_memory_bytes: int | None = None

    def quantities(self) -> dict[str, float]:
        """Everything known but the time, by field name."""
        return self.model_dump(exclude={"seconds"}, exclude_none=True)


class Extent(BaseModel):
    """Mean and maximum over all readings, in the unit of the field they belong to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    max: float


class Activity(BaseModel):
    """The timeline of one GPU.

    ``readings`` were taken every ``interval_seconds`` or so; of them every ``kept_every``-th is in ``samples``, and
    all are in ``summary``. ``lost`` says when and why the GPU stopped answering, if it did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.activity/1"] = "calib8.activity/1"
    device: str
    target: str
    driver: str
    memory_total_bytes: int | None = None
    interval_seconds: float
    duration_seconds: float
    readings: int
    kept_every: int
    lost: str | None = None
    summary: dict[str, Extent]
    samples: tuple[Sample, ...]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump(mode="json", exclude_none=True))


class Timeline:
    """Samples thinned so that never more than ``capacity`` (at least 2) are kept, evenly over the whole time."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.samples: list[Sample] = []
        self.kept_every = 1
        self.readings = 0
        self._sums: dict[str, tuple[int, float, float]] = {}  # count, sum, maximum

    def add(self, sample: Sample) -> None:
        """Take one more reading into account."""
        if self.readings % self.kept_every == 0:
            if len(self.samples) == self.capacity:
                self.samples = self.samples[::2]
                self.kept_every *= 2
            if self.readings % self.kept_every == 0:
                self.samples.append(sample)
        self.readings += 1
        for name, value in sample.quantities().items():
            count, total, largest = self._sums.get(name, (0, 0.0, value))
            self._sums[name] = (count + 1, total + value, max(largest, value))

    def summary(self) -> dict[str, Extent]:
        """Mean and maximum of every quantity that was ever told."""
        return {name: Extent(mean=total / count, max=top) for name, (count, total, top) in self._sums.items()}
