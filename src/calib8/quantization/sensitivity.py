"""What each op costs: the model's own output with that op alone quantised, and with it alone in float.

One run of a few samples for each, on a model that holds every op in both forms (see ``switchboard``).
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from calib8.config import Precision
from calib8.files import write_json
from calib8.progress import Progress
from calib8.quantization.known import Known
from calib8.quantization.probe import Probe
from calib8.quantization.switchboard import Switchboard


class OpSensitivity(BaseModel):
    """Mean cosine to FP32 of the model's output.

    alone: with this op quantised and all others in float. spared: with this op in float and all others quantised.
    recipe: how it was quantised for this, None if by ranges alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    kind: str
    recipe: str | None
    alone: float
    spared: float


class Sensitivity(BaseModel):
    """Every op that can be quantised, the costliest first; mean cosines with all ops in float, and all quantised.

    Embedding tables are int8 in both, where they are asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.sensitivity/1"] = "calib8.sensitivity/1"
    #: What the ops were quantised to.
    precision: Precision = "int8"
    samples: int
    all_float: float
    all_int8: float
    ops: tuple[OpSensitivity, ...]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())


class Measuring:
    """Cosines of a switchboard under a probe, each set of ops measured once; those ``known`` are not measured again."""

    def __init__(self, board: Switchboard, probe: Probe, known: Known | None = None) -> None:
        self.board, self.probe = board, probe
        self._known = known if known is not None else Known(None)

    def __len__(self) -> int:
        return len(self._known)

    def cosines(self, int8: Iterable[str]) -> NDArray[np.float64]:
        """Cosine of each sample with the ops named in ``int8`` quantised."""
        names = frozenset(int8)

        def measured() -> Iterable[float]:
            self.board.int8 = names
            return self.probe.cosines(self.board)

        return np.array(self._known.numbers(sorted(names), measured))

    def cosine(self, int8: Iterable[str]) -> float:
        """Their mean."""
        return float(self.cosines(int8).mean())


def costs_alone(measuring: Measuring, progress: Progress) -> dict[str, float]:
    """What each op alone takes from the cosine that all ops in float leave."""
    names, base = measuring.board.names, measuring.cosine(())
    costs = {}
    for done, name in enumerate(names, start=1):
        costs[name] = base - measuring.cosine({name})
        progress.update("sensitivity", done, len(names))
    return costs


def rank(measuring: Measuring, described: dict[str, tuple[str, str | None]], progress: Progress) -> Sensitivity:
    """Every op of the switchboard; ``described`` holds kind and recipe by name."""
    names = measuring.board.names
    everything = frozenset(names)
    ops = []
    for done, name in enumerate(names, start=1):
        alone, spared = measuring.cosine({name}), measuring.cosine(everything - {name})
        kind, recipe = described[name]
        ops.append(OpSensitivity(node=name, kind=kind, recipe=recipe, alone=alone, spared=spared))
        progress.update("sensitivity", done, len(names))
    return Sensitivity(
        precision=measuring.board.precision,
        samples=len(measuring.probe.data),
        all_float=measuring.cosine(()),
        all_int8=measuring.cosine(everything),
        ops=tuple(sorted(ops, key=lambda op: op.alone)),
    )


def culprits(names: Sequence[str], damage: Callable[[Sequence[str]], float], limit: float) -> dict[str, float]:
    """The ops whose own damage exceeds ``limit``, with that damage.

    A group that does no more than that together is cleared at once; any other is halved. A few culprits among n ops
    are found in a few times log2(n) measurements.
    """
    found = damage(names) if names else 0.0
    if found <= limit:
        return {}
    if len(names) == 1:
        return {names[0]: found}
    half = len(names) // 2
    return culprits(names[:half], damage, limit) | culprits(names[half:], damage, limit)
