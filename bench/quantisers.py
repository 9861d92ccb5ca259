"""The rows of bench/accuracy.py: one way each to make an INT8 model, run and measured in a process of its own.

    PYTHON bench/quantisers.py NAME model.onnx calibration.npz output.onnx GIB

PYTHON is one that has the row's tool; nothing else is needed there, so that a tool may pin what it likes. Beside
``output.onnx`` goes a ``.json`` with seconds of CPU and peak memory of the whole process, imports, loading and writing
included. GIB bounds its memory: some tools would take the machine down.

Every tool gets the same sentences, one a batch and without padding: that is what suits them best, since the others
count padding as data, and some hold every tensor of every batch.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from calib8.calibration.one_pass import Calibration
    from calib8.calibration.statistics import TensorStatistics
    from calib8.graph.site import Site
    from calib8.passes.condition import Conditioning, Quantised

Sentence = dict[str, NDArray[np.int64]]
Quantise = Callable[[Path, Path, Path], None]


@dataclass(frozen=True)
class Quantiser:
    """A row: its title, the package that it measures, and how it turns (model, data, output) into a file."""

    title: str
    package: str
    quantise: Quantise


class Reader:
    """Calibration sentences as ONNX Runtime and its relatives read them: one a batch, None at the end, from anew."""

    def __init__(self, data: Path) -> None:
        with np.load(data, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        lengths = arrays["attention_mask"].sum(axis=1)
        self._sentences: list[Sentence] = [
            {name: array[row : row + 1, :length] for name, array in arrays.items()}
            for row, length in enumerate(lengths)
        ]
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        self.set_range(0, len(self))

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read these sentences only, next."""
        self._left = iter(self._sentences[start_index:end_index])

    def get_next(self) -> Sentence | None:
        """The next batch."""
        return next(self._left, None)

    def get_first(self) -> Sentence:
        """The first batch, whatever was read."""
        return self._sentences[0]

    def __iter__(self) -> Iterator[Sentence]:
        return self._left

    def __len__(self) -> int:
        return len(self._sentences)


def calib8(**options: Any) -> Quantise:
    """``calib8 convert`` up to the INT8 model, with these options of quantisation."""

    def quantise(model: Path, data: Path, output: Path) -> None:
        import calib8
        from calib8.data.split import First
        from calib8.graph.dataset import dataset_for
        from calib8.graph.io import save
        from calib8.progress import Quiet
        from calib8.quantization.case import Case
        from calib8.quantization.config import PROBED, Int8
        from calib8.quantization.guard import quantise_guarded
        from calib8.quantization.probe import Probe
        from calib8.text.sentence import pooling_of

        reference, found = _calibrated(model, data)
        case = Case(reference, found.ranges, found.statistics, Int8(**options))
        samples = dataset_for(reference, First(calib8.npz_file(data), PROBED), Quiet())
        probe = Probe(reference, samples, pooling=pooling_of(model.parent)[0])
        int8, _ = quantise_guarded(case, probe, Quiet())
        save(int8, output)

    return quantise


def everywhere(solve_one: Callable[["TensorStatistics", "Site"], "Quantised"]) -> Quantise:
    """One way to quantise a site, at every site, through calib8's own passes; no op left in float."""

    def quantise(model: Path, data: Path, output: Path) -> None:
        from calib8.graph.io import save
        from calib8.graph.site import sites
        from calib8.quantization.apply import apply_plan
        from calib8.quantization.config import Int8
        from calib8.quantization.design import Recipe
        from calib8.quantization.policy import make_plan
        from calib8.quantization.solve import Solution
        from calib8.quantization.trials import Trial

        reference, found = _calibrated(model, data)
        config, trial = Int8(min_sqnr_db=0), Trial(Recipe(), error=0.0)  # nothing that the policy would refuse
        solutions: dict[str, Solution] = {}
        for site in sites(reference):
            solution = Solution(solve_one(found.statistics[site.tensor], site), trial, (trial,))
            solutions |= dict.fromkeys([op.name for op in site.ops], solution)
        plan = make_plan(reference, found.ranges, config, solutions)
        save(apply_plan(reference, found.ranges, plan, config, solutions), output)

    return quantise


def _nearest(seen: "TensorStatistics", site: "Site", alpha: float | None = None) -> "Quantised":
    """Min/max ranges, nearest rounding, bias not corrected; with an ``alpha``, SmoothQuant as published."""
    from calib8.passes.condition import Codes, Quantised
    from calib8.quantization.rounding import nearest

    conditioning = _smoothing(seen, site, alpha)
    weights = {}
    for op, matrix in _matrices(site):
        rounded = nearest(conditioning.weight(matrix))
        weights[op] = Codes(rounded.codes, rounded.scale, np.zeros(matrix.shape[1], np.float32))
    return Quantised(conditioning, weights)


def _smooth_gptq(seen: "TensorStatistics", site: "Site") -> "Quantised":
    """SmoothQuant as published, with calib8's rounding and bias correction."""
    from calib8.passes.condition import Codes, Quantised
    from calib8.quantization.rounding import gptq
    from calib8.quantization.trials import on_grid

    conditioning, rows = _smoothing(seen, site, 0.5), seen.sample().rows()
    inputs = on_grid(rows, conditioning)
    weights = {}
    for op, matrix in _matrices(site):
        rounded = gptq(conditioning.weight(matrix), inputs.T @ inputs)
        lost = (rows @ matrix - inputs @ rounded.values()).mean(axis=0)
        weights[op] = Codes(rounded.codes, rounded.scale, lost)
    return Quantised(conditioning, weights)


def _smoothing(seen: "TensorStatistics", site: "Site", alpha: float | None) -> "Conditioning":
    """``reach^alpha / weight^(1 - alpha)`` per channel (Xiao et al., 2022, arXiv:2211.10438), min/max ranges."""
    from calib8.passes.condition import Conditioning

    assert seen.channel_minimum is not None and seen.channel_maximum is not None  # noqa: PT018
    reach, weight = np.maximum(-seen.channel_minimum, seen.channel_maximum), np.abs(site.matrix()).max(axis=1)
    factor = np.ones_like(reach)
    if alpha is not None:
        factor = np.maximum(reach, 1e-5) ** alpha / np.maximum(weight, 1e-5) ** (1 - alpha)  # as the authors clamp
    shift, index = np.zeros_like(reach), np.arange(len(reach))
    return Conditioning(shift, index, (1 / factor).astype(np.float32), float((reach / factor).max()))


def _matrices(site: "Site") -> list[tuple[str, NDArray[np.float32]]]:
    from calib8.graph.site import matrix_of

    assert site.window is None  # transformers
    return [(op.name, matrix_of(op)) for op in site.ops]


def _calibrated(model: Path, data: Path) -> tuple["ir.Model", "Calibration"]:
    import calib8
    from calib8.calibration.config import Calibrate
    from calib8.calibration.one_pass import calibrate
    from calib8.calibration.origin import origin_of
    from calib8.graph.dataset import dataset_for
    from calib8.graph.io import SOURCE_SHA256
    from calib8.progress import Quiet
    from calib8.quantization.solve import ROWS

    reference, source, config = calib8.load(model), calib8.npz_file(data), Calibrate()
    origin = origin_of(reference.metadata_props[SOURCE_SHA256], source.fingerprint(), config)
    dataset = dataset_for(reference, source, Quiet())
    return reference, calibrate(reference, dataset, config, origin, Quiet(), sample=ROWS)


def ort_static(method: str = "MinMax", *, outputs: bool = False, ffn2: bool = True, **extra: Any) -> Quantise:
    """ONNX Runtime's ``quantize_static`` of MatMul, per channel, int8 and symmetric as TensorRT needs it.

    outputs: Q/DQ on the outputs of MatMul too, its default. ffn2: whether GEMMs that narrow are quantised.
    """

    def quantise(model: Path, data: Path, output: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, quantize_static

        quantize_static(
            model,
            output,
            Reader(data),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            nodes_to_exclude=[] if ffn2 else _narrowing(model),
            calibrate_method=CalibrationMethod[method],
            extra_options={
                "ActivationSymmetric": True,
                "OpTypesToExcludeOutputQuantization": [] if outputs else ["MatMul"],
                # A stride of one sentence: histograms of ragged batches crash otherwise, and memory is bounded.
                "CalibStridedMinMax": 1,
                **extra,
            },
        )

    return quantise


def ort_dynamic(model: Path, data: Path, output: Path) -> None:
    """ONNX Runtime's ``quantize_dynamic``, which needs no data: scales are found at run time, so no TensorRT."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, output, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)


def intel_smoothquant(model: Path, data: Path, output: Path) -> None:
    """SmoothQuant of onnx-neural-compressor, 1.0 kept from crashing on ragged batches and on GELU."""
    from onnx_neural_compressor.algorithms.smoother import calibrator  # type: ignore[import-not-found]
    from onnx_neural_compressor.quantization import config, quantize  # type: ignore[import-not-found]
    from onnxruntime.quantization import QuantFormat, QuantType

    def largest(_: object, batches: list[NDArray[np.float32]], percentile: float) -> NDArray[np.float32]:
        rows = np.concatenate([np.abs(batch.reshape(-1, batch.shape[-1])) for batch in batches])
        return np.asarray(np.percentile(rows, percentile, axis=0), np.float32)

    calibrator.Calibrator._get_max_per_channel = largest  # its own stacks the batches
    reader = Reader(data)
    settings = config.SmoothQuantConfig(
        alpha=0.7,
        folding=False,  # folding into GELU's Mul by a scalar crashes
        calib_iter=len(reader),
        calibration_data_reader=reader,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        calibration_sampling_size=len(reader),
        execution_provider="CPUExecutionProvider",
        extra_options={
            "ActivationSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "SmoothQuant": True,
        },
    )
    quantize(str(model), str(output), settings)


def modelopt(**options: Any) -> Quantise:
    """NVIDIA ModelOpt's ONNX quantiser on the CPU, with these options. It keeps weights in float, with Q/DQ behind."""

    def quantise(model: Path, data: Path, output: Path) -> None:
        from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]

        reader = Reader(data)
        quantize(
            str(model), calibration_data_reader=reader, calibration_eps=["cpu"], output_path=str(output), **options
        )

    return quantise


#: Every MatMul, and only these; weights stored as int8.
MODELOPT_MAX: dict[str, Any] = {
    "calibration_method": "max",
    "op_types_to_quantize": ["MatMul"],
    "high_precision_dtype": "fp32",
    "dq_only": True,
}


def _narrowing(model: Path) -> list[str]:
    """Names of the MatMul nodes whose weight has more rows than columns: a transformer's second feed-forward GEMM."""
    import onnx

    graph = onnx.load(str(model)).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weighted = [(node.name, shapes.get(node.input[1], [])) for node in graph.node if node.op_type == "MatMul"]
    return [name for name, shape in weighted if len(shape) == 2 and shape[0] > shape[1]]


QUANTISERS = {
    "calib8": Quantiser("calib8, defaults", "calib8", calib8()),
    "calib8-plain": Quantiser("calib8 --treatment plain", "calib8", calib8(treatment="plain")),
    "calib8-plain-0": Quantiser(
        "calib8 plain, no op left in float", "calib8", calib8(treatment="plain", min_sqnr_db=0, max_damage=2)
    ),
    "minmax": Quantiser("min/max everywhere, nearest rounding", "calib8", everywhere(_nearest)),
    "smoothquant": Quantiser(
        "SmoothQuant 0.5 everywhere, nearest rounding", "calib8", everywhere(partial(_nearest, alpha=0.5))
    ),
    "smoothquant-gptq": Quantiser(
        "SmoothQuant 0.5 everywhere, GPTQ, bias correction", "calib8", everywhere(_smooth_gptq)
    ),
    "ort-minmax": Quantiser("ONNX Runtime static, MinMax", "onnxruntime", ort_static(outputs=True)),
    "ort-no-outputs": Quantiser("ONNX Runtime static, MinMax, no output Q/DQ", "onnxruntime", ort_static()),
    "ort-no-ffn2": Quantiser(
        "ONNX Runtime static, MinMax, no output Q/DQ, no FFN2", "onnxruntime", ort_static(ffn2=False)
    ),
    "ort-entropy": Quantiser("ONNX Runtime static, Entropy, no output Q/DQ", "onnxruntime", ort_static("Entropy")),
    "ort-percentile": Quantiser(
        "ONNX Runtime static, Percentile 99.99, no output Q/DQ",
        "onnxruntime",
        ort_static("Percentile", CalibPercentile=99.99),
    ),
    "ort-dynamic": Quantiser("ONNX Runtime dynamic", "onnxruntime", ort_dynamic),
    "intel-smoothquant": Quantiser("Intel, SmoothQuant 0.7", "onnx-neural-compressor", intel_smoothquant),
    "modelopt-max": Quantiser("NVIDIA ModelOpt, max, MatMul only", "nvidia-modelopt", modelopt(**MODELOPT_MAX)),
    "modelopt": Quantiser("NVIDIA ModelOpt, defaults", "nvidia-modelopt", modelopt()),
    "modelopt-no-mha": Quantiser(
        "NVIDIA ModelOpt, no Q/DQ in attention", "nvidia-modelopt", modelopt(disable_mha_qdq=True)
    ),
    "modelopt-fp8": Quantiser("NVIDIA ModelOpt, FP8", "nvidia-modelopt", modelopt(quantize_mode="fp8")),
}


def main() -> None:
    """Quantise, and write down what it took; an absent tool is written down too."""
    quantiser = QUANTISERS[sys.argv[1]]
    model, data, output = (Path(argument).resolve() for argument in sys.argv[2:5])
    most = int(float(sys.argv[5]) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    os.chdir(output.parent)  # some tools leave files wherever they are run
    start = time.perf_counter()
    facts: dict[str, Any]
    try:
        quantiser.quantise(model, data, output)
        facts = _usage(time.perf_counter() - start) | {
            "versions": versions(quantiser.package, "onnxruntime", "onnxruntime-gpu", "numpy")
        }
    except ImportError as error:
        facts = {"absent": str(error)}
    output.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


def _usage(elapsed: float) -> dict[str, float]:
    """Of this process and those it started. ``VmHWM``, since ``ru_maxrss`` still counts the parent before ``exec``."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "user_s": round(own.ru_utime + others.ru_utime, 1),
        "system_s": round(own.ru_stime + others.ru_stime, 1),
        "elapsed_s": round(elapsed, 1),
        "peak_gib": round(max(peak, others.ru_maxrss) / 2**20, 2),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in dict.fromkeys(packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
