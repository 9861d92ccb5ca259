"""Options that several commands share, each defined once."""

import os
from pathlib import Path
from typing import Annotated

import typer

from calib8.calibration.observers import ObserverName
from calib8.engine.family import FamilyChoice
from calib8.engine.options import CalibratorName, HardwareCompatibility
from calib8.engine.options import Precision as EnginePrecision
from calib8.quantization.config import Precision, Treatment
from calib8.runtime.names import CpuRuntime


def _targets(incomplete: str) -> list[str]:
    """What the shell proposes: ``sm75,`` goes on with every target that is not named yet."""
    from calib8.engine.targets import ARCHITECTURES

    *named, begun = incomplete.split(",")
    return [",".join([*named, target]) for target in ARCHITECTURES if target.startswith(begun) and target not in named]


def _use_device(device: int | None) -> int | None:
    """Let this process see that GPU alone, so that all of CUDA, TensorRT and NVML agree on it."""
    from calib8.gpu.hardware import alone, gpus, numbered
    from calib8.gpu.visible import VISIBLE

    if device is not None:
        present = gpus()
        os.environ[VISIBLE] = alone(numbered(present, device) if present else None, device)
    return device


HeldOut = Annotated[
    Path | None, typer.Option(help="Arrays or text to measure on; default: hold calibration data back.")
]
Device = Annotated[
    int | None,
    typer.Option(min=0, callback=_use_device, help="GPU to use, as CUDA counts those that CUDA_VISIBLE_DEVICES shows."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
Observer = Annotated[ObserverName, typer.Option(help="What turns statistics into a range.")]
Percentile = Annotated[float, typer.Option(help="For --observer percentile.")]
Include = Annotated[
    list[str] | None, typer.Option(help="Quantise only ops whose node name matches this.", metavar="GLOB")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Leave ops whose node name matches this in float.", metavar="GLOB")
]
MinSqnr = Annotated[float, typer.Option(help="Leave ops whose input would keep less than this many dB in float.")]
Remainder = Annotated[Precision, typer.Option(help="Precision of what is not INT8.")]
Embedding = Annotated[bool, typer.Option("--int8-embedding/--float-embedding", help="How to store embedding tables.")]
Conditioning = Annotated[
    Treatment, typer.Option(help="Condition activations with outliers and round with GPTQ, or use ranges alone.")
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="GPU architectures, one engine each; sm75+sm86 is one engine for both. Default: these, without sm75 where "
        "the model has convolutions.",
        metavar="sm75,sm86,sm89,sm120",
        autocompletion=_targets,
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        help="Input, then its smallest, usual and largest shape. The same input again: a further profile.",
        metavar="input_ids:1x1:8x64:64x384",
    ),
]
BuildPrecision = Annotated[
    EnginePrecision,
    typer.Option(help="int8 builds a quantised model, the others a float one: what to set INT8 against."),
]
Family = Annotated[FamilyChoice, typer.Option(help="Which TensorRT builds, if both are installed.")]
Workspace = Annotated[int | None, typer.Option(min=1, help="Scratch memory limit in MiB.")]
Level = Annotated[
    int | None, typer.Option(min=0, max=5, help="0 builds fast, 5 runs fast. TensorRT 10 and 11.", metavar="0…5")
]
AllowFloatOps = Annotated[
    str,
    typer.Option(
        help="Accept an engine that computes this many quantised ops in float, or this share of them. It is built and "
        "kept in any case; without this the exit code is 1.",
        metavar="N|N%",
    ),
]
Tf32 = Annotated[bool, typer.Option(help="Let FP32 matrix products round to TF32.")]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible", help="Let later versions of the same major version run it. TensorRT 10 and 11."
    ),
]
ExcludeLeanRuntime = Annotated[
    bool,
    typer.Option(
        "--exclude-lean-runtime", help="With --version-compatible: bring no runtime, for machines with tensorrt-lean."
    ),
]
Compatibility = Annotated[
    HardwareCompatibility, typer.Option(help="Other GPUs that run the engine. TensorRT 10 and 11.")
]
WeightStreaming = Annotated[
    bool, typer.Option("--weight-streaming", help="Let the runtime keep weights in host memory.")
]
TimingCache = Annotated[
    Path | None,
    typer.Option(help="Kernel timings to reuse and to extend. TensorRT 10 and 11. Default: in the user's cache."),
]
KeepTimings = Annotated[
    bool, typer.Option("--keep-timings/--no-timing-cache", help="Keep kernel timings for the next build.")
]
Calibrator = Annotated[
    CalibratorName | None, typer.Option(help="Find INT8 scales of an FP32 model on the GPU. TensorRT 10 only.")
]
CalibrationData = Annotated[
    Path | None, typer.Option(help="For --calibrator: folder with one <input name>.npy per input, or an .npz file.")
]
CalibrationCache = Annotated[
    Path | None, typer.Option(help="For --calibrator: its cache, read if it fits, else written.")
]
CalibrationBatch = Annotated[int | None, typer.Option(min=1, help="For --calibrator: samples in a batch.")]
Runtime = Annotated[CpuRuntime, typer.Option(help="CPU runtime for ONNX models.")]
Tokenizer = Annotated[Path | None, typer.Option(help="Folder with tokenizer.json; default: beside the model.")]
Pairs = Annotated[Path | None, typer.Option(help="CSV of sentence1, sentence2, score, for Spearman's correlation.")]
Sentences = Annotated[
    bool, typer.Option("--sentences/--no-sentences", help="Quote the worst ten held-out sentences in the report.")
]
Monitor = Annotated[
    bool, typer.Option("--monitor", help="Watch the GPU through NVML, and keep the timeline beside the output.")
]
MonitorInReport = Annotated[
    bool, typer.Option("--monitor", help="Watch the GPU through NVML, and keep the timeline in the report.")
]
Profile = Annotated[
    bool, typer.Option("--profile", help="Show where an engine's time goes: TensorRT's profiler times its kernels.")
]
Data = Annotated[Path, typer.Option(help="Folder with one <input name>.npy per model input, or an .npz file.")]
DataOrText = Annotated[
    Path,
    typer.Option(
        "--data",
        "--text",
        help="Folder with one <input name>.npy per model input, an .npz file, or a .txt file of sentences, for which "
        "tokenizer.json must be beside the model.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Spread the work over a Ray cluster: local (this machine), auto, or ray://host:10001.", metavar="ADDRESS"
    ),
]
RayCpus = Annotated[int, typer.Option(min=1, help="For --ray: CPUs of each worker, which holds a model of its own.")]
