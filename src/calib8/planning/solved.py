"""Solutions in files: a run that was stopped while it solved sites goes on with the next one."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.files import atomic
from calib8.passes.condition import Codes, Conditioning, Quantised
from calib8.planning.design import Recipe
from calib8.planning.solve import Solution
from calib8.planning.trials import Trial
from calib8.unfinished import is_whole


def kept(path: Path | None, solve: Callable[[], Solution]) -> Solution:
    """The solution in the file ``path`` if that is whole, otherwise that of ``solve``, which is then kept there."""
    if path is None:
        return solve()
    if not is_whole(path):
        save(solve(), path)
    return load(path)


def save(solution: Solution, path: Path) -> None:
    """Write as ``.npz``, atomically."""
    conditioning, weights = solution.quantised.conditioning, solution.quantised.weights
    told = {
        "ops": list(weights),
        "amax": conditioning.amax,
        "chosen": _told(solution.trial),
        "tried": [_told(trial) for trial in solution.trials],
    }
    arrays: dict[str, NDArray[Any]] = {
        "shift": conditioning.shift,
        "index": conditioning.index,
        "multiplier": conditioning.multiplier,
    }
    for number, weight in enumerate(weights.values()):
        arrays |= {f"{name}.{number}": getattr(weight, name) for name in ("codes", "scale", "bias")}
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, told=np.array(json.dumps(told)), **arrays)


def load(path: Path) -> Solution:
    """What ``save`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        told = json.loads(str(stored["told"]))
        conditioning = Conditioning(stored["shift"], stored["index"], stored["multiplier"], told["amax"])
        weights = {
            op: Codes(*(stored[f"{name}.{number}"] for name in ("codes", "scale", "bias")))
            for number, op in enumerate(told["ops"])
        }
    tried = tuple(_trial(trial) for trial in told["tried"])
    return Solution(Quantised(conditioning, weights), _trial(told["chosen"]), tried)


def _told(trial: Trial) -> dict[str, object]:
    return {"recipe": asdict(trial.recipe), "error": trial.error}


def _trial(told: dict[str, object]) -> Trial:
    recipe, error = told["recipe"], told["error"]
    assert isinstance(recipe, dict)
    assert isinstance(error, float)
    return Trial(Recipe(**recipe), error)
