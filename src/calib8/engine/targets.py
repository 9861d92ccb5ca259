"""Build targets: the compute capabilities that an engine is compiled for, and how their files are named.

``sm86`` is one engine for one capability, ``sm75+sm86`` one engine for both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from calib8.errors import ProfileError
from calib8.precision import Grid

#: What people call each compute capability. A target that is missing here is still valid.
ARCHITECTURES = {
    "sm75": "Turing: T4, RTX 20",
    "sm80": "Ampere: A100, A30",
    "sm86": "Ampere: A10, A40, RTX 30",
    "sm89": "Ada: L4, L40S, RTX 40",
    "sm90": "Hopper: H100, H200",
    "sm100": "Blackwell: B200",
    "sm103": "Blackwell: B300",
    "sm120": "Blackwell: RTX 50, RTX PRO",
    "sm121": "Blackwell: DGX Spark",
}
#: Data centre cards, on which TensorRT-RTX runs no engine at all, and its oldest architecture.
NOT_RTX = ("sm90", "sm100", "sm103")
FIRST_RTX = 75


def rtx_runs_on(target: str) -> bool:
    """Whether GPUs of this compute capability are for TensorRT-RTX: Turing, Ampere, Ada and Blackwell RTX cards.

    What is no compute capability is for ``require_known`` to refuse.
    """
    number = re.fullmatch(r"sm(\d{1,4})", target)
    return target not in NOT_RTX and (number is None or int(number[1]) >= FIRST_RTX)


def multiplies(target: str, grid: Grid) -> bool:
    """Whether all GPUs of a known target have units for ``grid``."""
    return all(int(name.removeprefix("sm")) >= grid.capability for name in members(target))


def parse_targets(targets: str | Iterable[str]) -> tuple[str, ...]:
    """``"sm75,SM86"`` or an iterable of names -> ``("sm75", "sm86")``, order kept. Raises ``ProfileError`` if empty.

    ``SM86+sm75`` becomes ``sm75+sm86``: the builder makes the same engine of both.
    """
    names = targets.split(",") if isinstance(targets, str) else targets
    parsed = tuple(dict.fromkeys("+".join(members(name)) for name in names if name.strip()))
    if not parsed:
        raise ProfileError("no build target given. Expected names such as sm86 or sm75,sm86,sm89,sm120.")
    return parsed


def proposals(begun: str) -> list[str]:
    """What the shell proposes: ``sm75,`` goes on with every target that is not named yet."""
    *named, last = begun.split(",")
    return [",".join([*named, target]) for target in ARCHITECTURES if target.startswith(last) and target not in named]


def members(target: str) -> tuple[str, ...]:
    """The compute capabilities of a target, smallest first: ``sm75+sm86`` -> ``("sm75", "sm86")``."""
    names = {name.strip().lower() for name in target.split("+")}
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def require_known(targets: Sequence[str], choices: Sequence[str], builder: str) -> None:
    """Raise ``ProfileError`` if a target is not among ``choices``, which are what ``builder`` can compile for."""
    unknown = [name for target in targets for name in members(target) if name not in choices]
    if unknown:
        valid = "; ".join(describe(choice) for choice in choices)
        raise ProfileError(f"unknown build target {', '.join(map(repr, unknown))}. {builder} builds for: {valid}.")


def describe(target: str) -> str:
    """``sm86 (Ampere: A10, A40, RTX 30)``."""
    known = [ARCHITECTURES[name] for name in members(target) if name in ARCHITECTURES]
    return f"{target} ({'; '.join(known)})" if known else target


def path_for(path: Path, target: str, targets: Sequence[str]) -> Path:
    """``path`` itself for one target; with several, ``mpnet.engine`` becomes ``mpnet.sm86.engine``."""
    return path if len(targets) == 1 else path_among(path, target)


def path_among(path: Path, target: str) -> Path:
    """The file of one target among several: ``mpnet.engine`` -> ``mpnet.sm86.engine``."""
    return path.with_name(f"{path.stem}.{target}{path.suffix}")
