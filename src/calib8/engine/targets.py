"""Build targets: the compute capabilities (``sm86``) that an engine is compiled for, and how their files are named."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from calib8.errors import ProfileError

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


def parse_targets(targets: str | Iterable[str]) -> tuple[str, ...]:
    """``"sm75,SM86"`` or an iterable of names -> ``("sm75", "sm86")``, order kept. Raises ``ProfileError`` if empty."""
    names = targets.split(",") if isinstance(targets, str) else targets
    parsed = tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    if not parsed:
        raise ProfileError("no build target given. Expected names such as sm86 or sm75,sm86,sm89,sm120.")
    return parsed


def require_known(targets: Sequence[str], choices: Sequence[str], builder: str) -> None:
    """Raise ``ProfileError`` if a target is not among ``choices``, which are what ``builder`` can compile for."""
    unknown = [target for target in targets if target not in choices]
    if unknown:
        valid = "; ".join(describe(choice) for choice in choices)
        raise ProfileError(f"unknown build target {', '.join(map(repr, unknown))}. {builder} builds for: {valid}.")


def describe(target: str) -> str:
    """``sm86 (Ampere: A10, A40, RTX 30)``."""
    return f"{target} ({ARCHITECTURES[target]})" if target in ARCHITECTURES else target


def path_for(path: Path, target: str, targets: Sequence[str]) -> Path:
    """``path`` itself for one target; with several, ``mpnet.engine`` becomes ``mpnet.sm86.engine``."""
    return path if len(targets) == 1 else path_among(path, target)


def path_among(path: Path, target: str) -> Path:
    """The file of one target among several: ``mpnet.engine`` -> ``mpnet.sm86.engine``."""
    return path.with_name(f"{path.stem}.{target}{path.suffix}")
