"""One growing fraction out of TensorRT's tree of build phases."""

from dataclasses import dataclass
from threading import Lock


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

    Thread-safe, as TensorRT asks for. The fraction runs from 0 to 1 and never falls.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._fraction = 0.0
        self._lock = Lock()

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
            return self._fraction

    def finish(self, name: str) -> None:
        """The phase has ended, perhaps before all its steps were done."""
        with self._lock:
            self._open.pop(name, None)
