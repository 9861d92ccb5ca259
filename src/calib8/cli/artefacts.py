"""What can be done with a model or engine: run, embed, verify, inspect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import calib8
from calib8.cli import options as opt
from calib8.cli.activity import kept_activity
from calib8.cli.documents import Embedded, EmbeddedToFile, EmbeddedToFolder, Embedding, Inspected, Ran, SavedArray
from calib8.cli.results import add_command, in_json, tell
from calib8.console import ConsoleProgress, err, out, visible_json
from calib8.data.array_files import save_rows
from calib8.data.reading import STDIN
from calib8.errors import ConfigError
from calib8.files import require_separate
from calib8.text.corpus import JSON_LINES, PARQUET
from calib8.text.tokenizer import text_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calib8.gpu.activity import Activity
    from calib8.report.verification import VerificationReport
    from calib8.verification.on_gpu import GpuComparison

#: Longer names are not waited for by those beside them.
WIDEST = 80


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    for command in (run, embed, verify, inspect):
        add_command(app, command)


Artefact = Annotated[Path, typer.Argument(help="ONNX model or engine.")]


def run(
    artefact: Artefact,
    data: opt.Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for one <output name>.npy each.")],
    *,
    runtime: opt.Runtime,
    device: opt.Device = None,
    monitor: opt.Monitor = False,
    quiet: opt.Quiet = False,
) -> None:
    """Run a model or an engine over arrays.

    Example: calib8 run model.int8.onnx --data calib_data -o outputs
    """
    with ConsoleProgress(quiet=quiet) as progress, kept_activity(output, monitor, artefact):
        written = calib8.run_to_folder(artefact, data, output, runtime=runtime, progress=progress)
    for path, shape in written.items():
        out.print(f"{path}: {list(shape)}", markup=False)
    tell(Ran(outputs={path.stem: SavedArray(path=path, shape=shape) for path, shape in written.items()}))


def embed(
    artefact: Artefact,
    texts: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files or pipes of texts, one a line; - is stdin, as is none. With --ray: .parquet, .jsonl, .txt.",
            metavar="FILE",
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".npy file; default: JSON lines. With --ray a folder.")
    ] = None,
    tokenizer: opt.Tokenizer = None,
    device: opt.Device = None,
    ray: opt.RayAddress = None,
    ray_cpus: opt.RayCpus,
    config: calib8.Corpus,
    monitor: opt.Monitor = False,
    quiet: opt.Quiet = False,
) -> None:
    """Turn lines of text into vectors, one per line, in order, as they come; a blank line is an empty text.

    Example: echo "Hello world" | calib8 embed build/mpnet/model.int8.onnx

    Over a Ray cluster, into a folder of Parquet files; a re-run makes the missing ones:
    calib8 embed model.int8.onnx corpus.parquet --ray auto -o embeddings
    """
    if monitor and output is None:
        raise ConfigError("--monitor keeps its timeline beside the output: name a file with -o.")
    if ray is not None:
        if output is None or not texts or monitor:
            raise ConfigError("--ray reads files and writes a folder: name both (-o), and no --monitor.")
        cluster = calib8.Ray(address=ray, cpus=ray_cpus)
        with ConsoleProgress(quiet=quiet) as progress:
            parts = calib8.embed_corpus(
                artefact, texts, output, config, cluster=cluster, tokenizer=tokenizer, progress=progress
            )
        out.print(f"{output}: {len(parts)} part{'s' if len(parts) != 1 else ''}", markup=False)
        tell(EmbeddedToFolder(output=output, parts=len(parts)))
        return
    _require_no_ray(texts or [], {**config.asked(), **calib8.Ray(cpus=ray_cpus).asked()})
    if output is not None:
        require_separate([output], [artefact, *(texts or ())])
    live = output is None and not in_json()  # lines are written meanwhile, perhaps to the terminal that has the bar
    with (
        ConsoleProgress(quiet=quiet, bars=not (live and out.is_terminal)) as progress,
        kept_activity(output or Path(), monitor, artefact),
    ):
        lines = text_lines(texts or [STDIN], progress.note)
        windows = calib8.embed_stream(artefact, lines, tokenizer=tokenizer, runtime=config.runtime, progress=progress)
        if output is not None:
            shape = save_rows(output, (vectors for _, vectors in windows))
        elif in_json():
            found = [line for window in windows for line in _embeddings(*window)]
        else:
            _write_lines(windows)
    if output is not None:
        out.print(f"{output}: {list(shape)}", markup=False)
        tell(EmbeddedToFile(output=output, shape=shape))
    elif in_json():
        tell(Embedded(embeddings=tuple(Embedding(**line) for line in found)))


def _require_no_ray(texts: list[Path], asked: dict[str, Any]) -> None:
    """Raise ``ConfigError`` for options and files that only ``--ray`` reads, lest they be ignored or read as text."""
    options = {"column": "--column", "part_rows": "--part-rows", "keep_text": "--keep-text", "cpus": "--ray-cpus"}
    if given := [option for name, option in options.items() if name in asked]:
        raise ConfigError(f"{', '.join(given)} go with --ray, which was not given. Add --ray local, or leave them out.")
    if rows := [path for path in texts if path.suffix in PARQUET + JSON_LINES]:
        raise ConfigError(f"{rows[0]} holds rows, and without --ray texts are read line by line. Add --ray local.")


def _embeddings(sentences: list[str], vectors: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    for sentence, vector in zip(sentences, vectors, strict=True):
        yield {"text": sentence, "embedding": [round(float(value), 7) for value in vector]}


def _write_lines(windows: Iterable[tuple[list[str], NDArray[np.float32]]]) -> None:
    """One JSON line each, as they come: whoever reads them need not wait for the end of the input."""
    for window in windows:
        for line in _embeddings(*window):
            out.file.write(visible_json(json.dumps(line, ensure_ascii=False)) + "\n")
        out.file.flush()


def verify(
    reference: Annotated[Path, typer.Argument(help="FP32 ONNX model.")],
    candidate: Annotated[Path, typer.Argument(help="ONNX model or engine to judge.")],
    data: Annotated[Path, typer.Option(help="Held-out arrays, or a .txt file of sentences.")],
    *,
    pairs: opt.Pairs,
    limits: calib8.Verify,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Insist on an engine and this machine's GPU; measure speed, too.")
    ] = False,
    output: opt.Report = None,
    sentences: opt.Sentences,
    profile: opt.Profile,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="For --gpu: watch it through NVML, and keep the timeline in the report.")
    ] = False,
    tokenizer: opt.Tokenizer = None,
    runtime: opt.Runtime,
    device: opt.Device = None,
    quiet: opt.Quiet = False,
) -> None:
    """Compare a model or engine with its FP32 reference; exit code 1 if a limit is missed.

    Limits hold for every output of the model: the worst decides.

    Example: calib8 verify model.onnx model.int8.onnx --data held_out.txt

    Where there is a GPU: calib8 verify model.onnx model-int8.engine --data held_out.txt --gpu
    """
    if output is not None:
        require_separate([output, output.with_suffix(".html")], [reference, candidate, data])
    if not gpu:
        _require_no_gpu(monitor=monitor, profile=profile)
    found = None
    with ConsoleProgress(quiet=quiet) as progress:
        options: dict[str, Any] = {
            "tokenizer": tokenizer, "pairs": pairs, "output_kinds": limits.kinds, "progress": progress
        }  # fmt: skip
        if gpu:
            with _watched(monitor, candidate) as activity:
                found = calib8.compare_on_gpu(reference, candidate, data, profile=profile, **options)
            found = found.model_copy(update={"activity": activity()})
            comparison = found.accuracy
        else:
            comparison = calib8.compare(reference, candidate, data, runtime=runtime, **options)
    if not sentences:
        comparison, found = comparison.without_texts(), found and found.without_texts()
    report = calib8.verdict(reference, candidate, data, comparison, limits, on_gpu=found)
    _show(report, output)
    tell(report)
    if not limits.judges:
        err.print("no limit given: nothing was judged", markup=False)
    comparison.raise_for_failure(limits)


def _require_no_gpu(*, monitor: bool, profile: bool) -> None:
    """Raise ``ConfigError`` for options that only ``--gpu`` reads."""
    if monitor:
        raise ConfigError("--monitor watches the GPU, and without --gpu nothing says that one works: give both.")
    if profile:
        raise ConfigError("--profile times kernels on the GPU, and without --gpu nothing need run there: give both.")


def inspect(
    path: Annotated[Path, typer.Argument(help="Any file that calib8 reads or writes.")],
) -> None:
    """Say what a model, engine, array, calibration cache, ranges, plan or report contains.

    Example: calib8 inspect build/mpnet/model.int8.onnx
    """
    found = calib8.inspect(path)
    _print(found)
    tell(Inspected(path=path, facts=found))


def _watched(wanted: bool, engine: Path) -> AbstractContextManager[Callable[[], Activity | None]]:
    """Watch the GPU that ``engine`` runs on if that is ``wanted``."""
    from calib8.gpu.monitor import watched
    from calib8.verification.on_gpu import target_of

    return watched(wanted, target_of(engine) if wanted else None)


def _show(report: VerificationReport, output: Path | None) -> None:
    """Print a verdict; write it to ``output``, as JSON, and beside it as an HTML page."""
    from calib8.report import contents
    from calib8.report.page.html import write_page
    from calib8.report.terminal import render

    document = contents.verification(report)
    if output is not None:
        report.save(output)
        write_page(output.with_suffix(".html"), document)
    if report.gpu is not None:
        _print_on_gpu(report.gpu)
    out.print(render(*document.sections))


def _print_on_gpu(found: GpuComparison) -> None:
    elsewhere = {"accuracy", "against_int8", "speed", "breakdowns", "activity"}
    facts = found.model_dump(mode="json", exclude_none=True, exclude=elsewhere)
    _print(facts)


def _print(content: dict[str, Any], indent: int = 0) -> None:
    """Nested facts as aligned ``name  value`` lines."""
    scalars = {key: value for key, value in content.items() if not isinstance(value, dict) or not value}
    width = min(max((len(str(key)) for key in scalars), default=0), WIDEST)
    for key, value in content.items():
        if key in scalars:
            out.print(f"{' ' * indent}{key!s:<{width}}  {_shown(value)}", markup=False)
        else:
            out.print(f"{' ' * indent}{key}", style="bold", markup=False)
            _print(value, indent + 2)


def _shown(value: Any) -> str:
    """In the words of people: ``0.99871``, ``input_ids, attention_mask``, ``none``."""
    if isinstance(value, float):
        return f"{value:.5f}"
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (dict, list)) for item in value):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != {} else "none"
