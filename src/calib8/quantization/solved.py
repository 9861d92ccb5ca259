"""Solutions in files: a run that was stopped while it solved sites goes on with the next one."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib8.files import atomic
from calib8.numerics import dtype_of, scale_of
from calib8.passes.condition import Codes, Conditioning, Quantised
from calib8.precision import GRIDS
from calib8.quantization.design import Recipe
from calib8.quantization.solve import Solution
from calib8.quantization.trials import Trial


def kept(path: Path | None, solve: Callable[[], Solution]) -> Solution:
    """The solution in the file ``path`` if that is whole, otherwise that of ``solve``, which is then kept there."""
    if path is None:
        return solve()
    with contextlib.suppress(Exception):  # whatever a damaged file leads to
        return load(path)
    save(solve(), path)
    return load(path)


def save(solution: Solution, path: Path) -> None:
    """Write as ``.npz``, atomically."""
    conditioning, weights = solution.quantised.conditioning, solution.quantised.weights
    told = {
        "precision": solution.quantised.grid.precision,
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
    if conditioning.offset is not None:
        arrays["offset"] = conditioning.offset
    for number, weight in enumerate(weights.values()):
        bits = weight.codes.view(np.int8)  # NumPy's files know no FP8
        arrays |= {f"codes.{number}": bits, f"scale.{number}": weight.scale, f"bias.{number}": weight.bias}
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, told=np.array(json.dumps(told)), **arrays)


def load(path: Path) -> Solution:
    """What ``save`` wrote. Raises an exception of any type if the file is damaged or holds what is no solution."""
    with np.load(path, allow_pickle=False) as stored:
        told = json.loads(str(stored["told"]))
        grid = GRIDS[told["precision"]]
        offset = stored.get("offset")
        conditioning = Conditioning(stored["shift"], stored["index"], stored["multiplier"], told["amax"], offset)
        weights = {
            op: Codes(
                stored[f"codes.{number}"].view(dtype_of(grid)), stored[f"scale.{number}"], stored[f"bias.{number}"]
            )
            for number, op in enumerate(told["ops"])
        }
    numbers = [conditioning.shift, conditioning.multiplier, conditioning.offset]
    numbers += [*(n for w in weights.values() for n in (w.scale, w.bias))]
    if not all(np.isfinite(array).all() for array in numbers if array is not None):
        raise ValueError("a number of it is not finite")
    scale_of(conditioning.amax, grid)
    tried = tuple(_trial(trial) for trial in told["tried"])
    return Solution(Quantised(conditioning, weights, grid), _trial(told["chosen"]), tried)


def _told(trial: Trial) -> dict[str, object]:
    return {"recipe": asdict(trial.recipe), "error": trial.error}


def _trial(told: dict[str, object]) -> Trial:
    recipe, error = told["recipe"], told["error"]
    assert isinstance(recipe, dict)
    assert isinstance(error, float)
    return Trial(Recipe(**recipe), error)
