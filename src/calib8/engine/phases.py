"""One growing fraction out of TensorRT's tree of build phases, and the stages that a build is told in."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

#: Of a calibrating build: TensorRT builds an engine that it runs the data on, and runs it.
ENGINE, BATCHES = "engine to calibrate with", "calibrate"


@dataclass
class _Phase:
    begin: float
    width: float
    steps: int
    done: int = 0

    def position(self) -> float:
        return self.begin + self.width * self.done / self.steps


class Phases:
    """Follows ``IProgressMonitor``: a phase fills the step of its parent during which it starts.

    Thread-safe, as TensorRT asks for. The fraction runs from 0 to 1 and falls only by ``begin_anew``.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._begin = self._fraction = 0.0
        self._lock = Lock()

    def begin_anew(self) -> None:
        """From now on the fraction is that of what is left of the open phases; of a tree that begins if none is."""
        with self._lock:
            self._begin = self._fraction = self._fraction if self._open else 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins inside ``parent``, or at the top."""
        with self._lock:
            outer = self._open.get(parent) if parent else None
            begin, width = (outer.position(), outer.width / outer.steps) if outer else (0.0, 1.0)
            self._open[name] = _Phase(begin, width, max(steps, 1))

    def step(self, name: str, step: int) -> float:
        """Step number ``step``, counted from 0, is done. Returns the fraction of the whole."""
        with self._lock:
            phase = self._open.get(name)
            if phase is not None:
                phase.done = min(step + 1, phase.steps)
                self._fraction = max(self._fraction, phase.position())
            left = 1 - self._begin
            return (self._fraction - self._begin) / left if left else 1.0

    def finish(self, name: str) -> None:
        """The phase has ended, perhaps before all its steps were done."""
        with self._lock:
            self._open.pop(name, None)


class Stages:
    """What a build is told in: ``stage`` from 0 to 1; before it, with a calibrator, an engine to run and batches.

    tell: called with stage, done and total, whenever another percent or batch is done. That ``stage`` has ended is for
    its caller to say: the engine is not written yet.
    """

    def __init__(self, stage: str, tell: Callable[[str, float, float], None]) -> None:
        self._stage, self._tell, self._percent = stage, tell, 0
        self._told = stage
        self.phases = Phases()

    def step(self, phase: str, step: int) -> None:
        """See ``Phases.step``."""
        percent = int(100 * self.phases.step(phase, step))
        if self._percent < percent < 100:
            self._percent = percent
            self._tell(self._told, percent / 100, 1)

    def calibrates(self, batches: int) -> None:
        """There is no cache: what is built now is to run that many batches."""
        self._turn_to(ENGINE)
        self._tell(BATCHES, 0, batches)

    def batch(self, done: int, batches: int) -> None:
        """So many of all batches are run, or being run; behind the last one the engine itself is built."""
        if done == 1:
            self._tell(ENGINE, 1, 1)
        self._tell(BATCHES, done, batches)
        if done == batches:
            self._turn_to(self._stage)

    def _turn_to(self, stage: str) -> None:
        self._told, self._percent = stage, 0
        self.phases.begin_anew()
