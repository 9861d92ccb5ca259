"""The steps of the recipe: convert, fetch, prepare, calibrate, sensitivity, quantize, build."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import calib8
from calib8.calibration.config import TensorChoice
from calib8.cli import options as opt
from calib8.cli.activity import kept_activity
from calib8.cli.documents import Built, Calibrated, Fetched, Prepared, Quantized
from calib8.cli.fields import Only
from calib8.cli.results import add_command, tell
from calib8.console import ConsoleProgress, out
from calib8.errors import ConfigError, LimitMissed, PlanMismatch
from calib8.quantization.config import PROBED

if TYPE_CHECKING:
    from calib8.engine.built import BuiltEngine
    from calib8.report.report import Report
    from calib8.verification.named import Least


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    for command in (convert, fetch, prepare, prepare_images, calibrate, sensitivity, quantize, build):
        add_command(app, command)


Model = Annotated[Path, typer.Argument(help="FP32 ONNX model.")]
CalibrationFolder = Annotated[Path, typer.Option("--output", "-o", help="Calibration folder to write.")]
#: All but the check of the plan, which is no choice of a command, and the GPU, which the process keeps.
BuildOptions = Annotated[
    calib8.Build,
    Only(
        "precision", "ranges", "targets", "shapes", "family", "workspace_mib", "optimization_level", "tf32",
        "version_compatible", "exclude_lean_runtime", "hardware_compatibility", "weight_streaming",
        "timing_cache", "keep_timings", "calibrator", "calibration_cache", "calibration_batch", "log",
        "allow_float", "allow_float_ops",
    ),
]  # fmt: skip


def _known_models(incomplete: str) -> list[str]:
    """What the shell proposes for ``calib8 fetch``."""
    from calib8.zoo.catalogue import MODELS

    return [name for name in sorted(MODELS) if name.startswith(incomplete)]


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="Reference model, OWNER/NAME[@REVISION] of the hub, or a folder.", autocompletion=_known_models
        ),
    ],
    to: Annotated[Path, typer.Option(help="Folder for model, tokenizer and pooling config.")],
    *,
    file: Annotated[str | None, typer.Option(help="Which ONNX file of a repository that has several.")] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch a model: a reference model, checked against pinned hashes, or any of the model hub, its commit recorded.

    Example: calib8 fetch all-mpnet-base-v2 --to models/mpnet
    """
    with ConsoleProgress(quiet=quiet) as progress:
        folder = calib8.fetch(name, to, file=file, progress=progress)
    out.print(str(folder / "model.onnx"), markup=False)
    tell(Fetched(model=folder / "model.onnx"))


def prepare(
    texts: Annotated[list[Path], typer.Argument(help="Text files, a sentence a line; .csv and .tsv: pairs of texts.")],
    tokenizer: Annotated[Path, typer.Option(help="Folder with tokenizer.json.")],
    output: CalibrationFolder,
    *,
    config: calib8.Prepare,
    quiet: opt.Quiet = False,
) -> None:
    """Turn text into a calibration folder: input_ids.npy, attention_mask.npy.

    Example: calib8 prepare sentences.txt --tokenizer models/mpnet -o calib_data
    """
    with ConsoleProgress(quiet=quiet) as progress:
        folder = calib8.prepare(texts, tokenizer, output, config, progress=progress)
    out.print(str(folder), markup=False)
    tell(Prepared(folder=folder))


def prepare_images(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    output: CalibrationFolder,
    *,
    config: calib8.Images,
    quiet: opt.Quiet = False,
) -> None:
    """Turn images into a calibration folder: one array, and a preview of what the model sees.

    Example: calib8 prepare-images photos --input images --size 224x224 --mean 0.485,0.456,0.406
    --std 0.229,0.224,0.225 -o calib_data
    """
    with ConsoleProgress(quiet=quiet) as progress:
        made = calib8.prepare_images(folder, output, config, progress=progress)
    out.print(str(made), markup=False)
    tell(Prepared(folder=made))


def calibrate(
    model: Model,
    data: opt.DataOrText,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Ranges file to write.")] = Path("ranges.json"),
    cache: Annotated[Path | None, typer.Option(help="Also write TensorRT's calibration cache.")] = None,
    cache_version: Annotated[
        str | None, typer.Option(help="TensorRT that reads the cache: 101600 for 10.16.0, its first line.")
    ] = None,
    config: calib8.Calibrate,
    ray: opt.RayAddress = None,
    ray_cpus: opt.RayCpus,
    quiet: opt.Quiet = False,
) -> None:
    """Find the range of every tensor that INT8 needs, in one pass over the data.

    Example: calib8 calibrate model.onnx --data calib_data -o ranges.json

    For TensorRT 10's calibrators: calib8 calibrate model.onnx --data calib_data --tensors all --cache calibration.cache
    """
    from calib8.caches.cache import Cache

    with ConsoleProgress(quiet=quiet) as progress:
        ranges = calib8.calibrate(
            model,
            data,
            config,
            output=output,
            cache=cache,
            cache_version=cache_version,
            cluster=_cluster(ray, ray_cpus),
            progress=progress,
        )
    out.print(f"{output}: {len(ranges.tensors)} tensors from {ranges.samples} samples", markup=False)
    header = None
    if cache is not None:
        written = Cache.load(cache)
        header = written.header
        out.print(f"{cache}: {header}, {len(written.scales)} tensors{_without(config.tensors)}", markup=False)
    tell(Calibrated(tensors=len(ranges.tensors), samples=ranges.samples, output=output, cache=cache, header=header))


def _without(tensors: TensorChoice) -> str:
    """What of TensorRT's tensors has no entry in a cache."""
    if tensors == "all":
        return ": all but those that TensorRT's parser adds by itself, ONNXTRT_…"
    return ": what weighted ops read; TensorRT 10 wants a scale of all (--tensors all)"


def quantize(
    model: Model,
    ranges: Annotated[Path, typer.Option(help="Ranges file that `calib8 calibrate` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Quantised model to write.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option("--data", "--text", help="Calibration data, for a second pass: far more ops can be INT8 with it."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Also write what was decided for every op, and why.")] = None,
    config: opt.Quantize,
    quiet: opt.Quiet = False,
) -> None:
    """Write the explicitly quantised (Q/DQ) model that TensorRT runs as INT8, or FP8.

    Example: calib8 quantize model.onnx --ranges ranges.json --data calib_data -o model.int8.onnx
    """
    with ConsoleProgress(quiet=quiet) as progress:
        decided = calib8.quantize_file(model, ranges, output, config, data=data, plan=plan, progress=progress)
    quantised, total, told = len(decided.quantised), len(decided.ops), decided.precision.upper()
    out.print(f"{output}: {quantised} of {total} weighted ops in {told}", markup=False)
    tell(Quantized(output=output, precision=decided.precision, int8_ops=quantised, weighted_ops=total))


def build(
    model: Annotated[Path, typer.Argument(help="Quantised (Q/DQ) ONNX model; with --precision a float one.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Engine to write; x.engine becomes x.sm86.engine if targets are several."),
    ],
    *,
    config: BuildOptions,
    data: Annotated[
        Path | None, typer.Option(help="For --calibrator: folder with one <input name>.npy per input, or an .npz file.")
    ] = None,
    device: opt.Device = None,
    monitor: opt.Monitor = False,
    quiet: opt.Quiet = False,
) -> None:
    """Build TensorRT engines and check that the compiler planned INT8, or FP8.

    Example: calib8 build model.int8.onnx -o model-int8.engine --target sm86

    What to set it against: calib8 build model.onnx -o model-fp16.engine --target sm86 --precision fp16
    """
    with ConsoleProgress(quiet=quiet) as progress:
        config = config.model_copy(update={"device": _only_one(device)})
        missed = None
        try:
            with kept_activity(output, monitor):
                engines = calib8.build(model, output, config, data=data, progress=progress)
        except PlanMismatch as error:
            engines, missed = list(error.built), error
    _tell_built(engines)
    if missed is not None:
        raise missed


def _tell_built(engines: list["BuiltEngine"]) -> None:
    from calib8.report.wording import size_of

    for engine in engines:
        out.print(f"{engine.path}: {size_of(engine.size_bytes)}, {engine.describe()}", markup=False)
    tell(Built(engines=tuple(engines)))


def convert(
    model: Model,
    data: opt.DataOrText,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is made.")],
    *,
    config: Annotated[calib8.Convert, Only("held_out", "pairs", "budget", "baseline", "monitor", "sentences")],
    verify: Annotated[calib8.Verify, Only("min_cosine", "require")],
    calibrate: calib8.Calibrate,
    quantize: opt.Quantize,
    build: Annotated[calib8.Build, Only("targets", "shapes", "family", "log", "allow_float_ops")],
    engine: Annotated[bool, typer.Option(help="Build engines.")] = True,
    device: opt.Device = None,
    ray: opt.RayAddress = None,
    ray_cpus: opt.RayCpus,
    quiet: opt.Quiet = False,
) -> None:
    """Calibrate, quantise, build, verify: an INT8 (or FP8) engine and its proof.

    An engine is named after the folder: build/model/model-int8.engine, or model-int8.sm86.engine among several targets.

    Example: calib8 convert model.onnx --data calib_data -o build/model
    """
    if build.log is not None and not engine:
        raise ConfigError(
            f"--tensorrt-log {build.log} is for what TensorRT says, and with --no-engine it says nothing. Leave one of "
            "them out."
        )
    steps = {
        "calibrate": calibrate,
        "quantize": quantize,
        "build": build.model_copy(update={"device": _only_one(device)}) if engine else None,
        "verify": _held_to(verify, config.budget),
        "ray": _cluster(ray, ray_cpus),
    }
    config = config.model_copy(update=steps)
    with ConsoleProgress(quiet=quiet) as progress:
        missed = None
        try:
            report = calib8.convert(model, data, output, config, progress=progress)
        except LimitMissed as error:
            if error.report is None:  # it was missed before there was anything to report
                raise
            missed, report = error, error.report
    _print_made(report, output, searched=config.budget is not None)
    tell(report)
    if missed is not None:
        raise missed


def _cluster(address: str | None, cpus: int) -> calib8.Ray | None:
    if address is not None:
        return calib8.Ray(address=address, cpus=cpus)
    if calib8.Ray(cpus=cpus).asked():
        raise ConfigError("--ray-cpus goes with --ray, which was not given. Give --ray local, say, or leave it out.")
    return None


def _print_made(report: "Report", output: Path, *, searched: bool) -> None:
    from calib8.quantization.quant_plan import QuantPlan
    from calib8.report import contents
    from calib8.report.sections.plan import plan_section
    from calib8.report.terminal import render

    if searched:
        out.print(render(plan_section(QuantPlan.load(output / "plan.json"))))
    out.print(render(*contents.conversion(report).sections))
    made = ", ".join([report.int8.name, *(engine.file.name for engine in report.engines), "report.html"])
    out.print(f"in {output}: {made}", markup=False)
    out.print(f"`calib8 inspect {output / 'plan.json'}` says what was done and why", markup=False)


def _held_to(asked: calib8.Verify, budget: "Least | None") -> calib8.Verify:
    """What is usual, what was asked for, and a budget: that is what must be kept, whatever is usual."""
    kept = () if budget is None else (budget,)
    return asked.model_copy(update={"standard": True, "require": (*kept, *asked.require)})


def sensitivity(
    model: Model,
    data: opt.DataOrText,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write all of it as JSON.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Held-out samples to measure on.")] = PROBED,
    show: Annotated[int, typer.Option(min=1, help="Ops to show, the costliest first.")] = 20,
    config: Annotated[
        calib8.Quantize, Only("precision", "include", "exclude", "embedding", "treatment", "output_kinds")
    ],
    ranges: calib8.Calibrate,
    quiet: opt.Quiet = False,
) -> None:
    """Rank ops by what they cost at the model's own output: alone quantised, and alone in float.

    Example: calib8 sensitivity model.onnx --data calib_data
    """
    from calib8.report.sections.sensitivity import sensitivity_section
    from calib8.report.terminal import render

    with ConsoleProgress(quiet=quiet) as progress:
        config = config.model_copy(update={"min_sqnr_db": 0.0})  # every op is measured
        found = calib8.sensitivity(
            model, data, config, calibrate=ranges, output=output, samples=samples, progress=progress
        )
    out.print(render(sensitivity_section(found, show)))
    tell(found)


def _only_one(device: int | None) -> int | None:
    """The number of the GPU that ``--device`` leaves: it is the only one that this process sees."""
    return None if device is None else 0
