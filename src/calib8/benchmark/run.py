"""A benchmark from end to end: artefacts and data in, a report out."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from calib8.data.sources import Data
from calib8.errors import ConfigError
from calib8.gpu.monitor import watched
from calib8.progress import Progress, Quiet
from calib8.report.bench import BenchReport
from calib8.report.report import this_machine
from calib8.runtime.feed import feed_of
from calib8.runtime.names import CpuRuntime
from calib8.runtime.open import is_engine, open_artefact
from calib8.text.text_source import tokenised_source
from calib8.verification.bench import measure
from calib8.verification.breakdown import break_down
from calib8.verification.config import Bench
from calib8.verification.on_gpu import target_of


def bench(
    artefacts: Sequence[Path | str],
    data: Data,
    config: Bench | None = None,
    *,
    tokenizer: Path | str | None = None,
    runtime: CpuRuntime = "auto",
    progress: Progress | None = None,
) -> BenchReport:
    """Latency and throughput of ONNX models and engines by turns, over arrays or text; ratios are to the first.

    Text is tokenised by ``tokenizer``, by default the one beside the first of them.

    Example:

        >>> config = calib8.Bench(batches="1,8", seconds=0)
        >>> report = calib8.bench(["model.onnx", "model.int8.onnx"], "held_out.txt", config)
        >>> [cell.batch for cell in report.cells]
        [1, 8]
    """
    config, progress, paths = Bench.of(config), progress or Quiet(), [Path(artefact) for artefact in artefacts]
    if not paths:
        raise ConfigError("nothing to measure: name at least one ONNX model or engine.")
    named = dict(zip(_names(paths), paths, strict=True))
    engines = [name for name, path in named.items() if is_engine(path)]
    if config.profile and not engines:
        raise ConfigError(
            f"--profile times the kernels of engines, and there is none among {', '.join(map(str, paths))}. Name "
            "an engine, or leave it out."
        )
    target = next(filter(None, map(target_of, paths)), None)
    with watched(config.monitor, target) as activity, ExitStack() as stack:
        opened = {name: stack.enter_context(open_artefact(path, runtime)) for name, path in named.items()}
        contract = next(iter(opened.values())).contract
        source = tokenised_source(data, Path(tokenizer or paths[0].parent), contract, progress)
        dataset = feed_of(paths[0], source, progress)
        cells = measure(opened, dataset, config, progress)
        timed = {name: opened[name] for name in engines} if config.profile else {}
        breakdowns = break_down(timed, cells, dataset, progress) if timed else ()
        runtimes = {name: runtime.description for name, runtime in opened.items()}
    return BenchReport(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        calib8=version("calib8"),
        machine=this_machine(),
        runtimes=runtimes,
        cells=cells,
        breakdowns=breakdowns,
        activity=activity(),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, or whole paths where two files are called the same. Raises ``ConfigError`` if one is named twice."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = list(map(str, paths))
    if len(set(names)) < len(names):
        raise ConfigError("the same artefact was named twice: it would be compared with itself.")
    return names
