"""Fuzz for as long as you like: ``make fuzz``, or ``python tests/fuzz/run.py --executions 1000000 -o summary.txt``.

Inputs are spread over the targets by their share. Findings go to ``build/fuzz``, to be fixed and to be kept in
``tests/fuzz/regressions``; exit code 1 if there is any.
"""

import argparse
import datetime
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

from campaign import Outcome, campaign
from targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
USED = ("numpy", "onnx", "onnx-ir", "pydantic", "tokenizers", "pyarrow", "protobuf")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets; all if none is given")
    parser.add_argument("--executions", type=int, default=1_000_000, help="in all")
    parser.add_argument("--seed", type=int, default=1, help="other seeds try other inputs")
    parser.add_argument("-o", "--output", type=Path, help="file for the summary")
    arguments = parser.parse_args()
    chosen = [target for target in TARGETS if target.name in (arguments.targets or [t.name for t in TARGETS])]
    shares = sum(target.share for target in chosen)
    outcomes = []
    for target in chosen:
        with tempfile.TemporaryDirectory(dir=memory(), prefix=f"fuzz-{target.name}-") as folder:
            count = -(-arguments.executions * target.share // shares)
            outcomes.append(campaign(target, Path(folder), executions=count, seed=arguments.seed))
        print(row(outcomes[-1]), flush=True)
        keep(outcomes[-1])
    if arguments.output is not None:
        arguments.output.write_text(summary(outcomes, arguments.seed), encoding="utf-8")
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def memory() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def row(outcome: Outcome) -> str:
    """One line of the summary."""
    counts = f"{outcome.executions:>10,} {outcome.accepted:>10,} {outcome.refused:>10,} {outcome.seconds:>8.0f}"
    lines = [f"{outcome.target:<20} {counts} {len(outcome.findings):>9}"]
    return "\n".join(
        [
            *lines,
            *(f"    {place}: {' '.join(found.message.split())[:150]}" for place, found in outcome.findings.items()),
        ]
    )


def keep(outcome: Outcome) -> None:
    """Write every finding to a file of its own."""
    folder = ROOT / "build" / "fuzz"
    for finding in outcome.findings.values():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{outcome.target}.{crc32(finding.data):08x}").write_bytes(finding.data)


def summary(outcomes: list[Outcome], seed: int) -> str:
    """The whole table, with what it was measured on."""
    tools = ", ".join(f"{name} {version(name)}" for name in USED)
    total = Outcome("all", *(sum(getattr(o, name) for o in outcomes) for name in ("executions", "accepted", "refused")))
    total.findings = {f"{o.target}: {place}": found for o in outcomes for place, found in o.findings.items()}
    total.seconds = sum(outcome.seconds for outcome in outcomes)
    return "\n".join([
        f"tests/fuzz/run.py --executions … --seed {seed}, {datetime.date.today().isoformat()}",
        f"Python {platform.python_version()}, {tools}",
        "",
        f"{'target':<20} {'executions':>10} {'accepted':>10} {'refused':>10} {'seconds':>8} {'findings':>9}",
        *map(row, outcomes),
        row(total).partition("\n")[0],
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
