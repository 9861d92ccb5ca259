"""calib8 turns a trained ONNX model into an INT8 TensorRT engine, and proves that the engine is worth shipping.

    import calib8

    model = calib8.load("model.onnx")
    ranges = calib8.calibrate(model, calib8.npy_folder("calib_data"))
    int8 = calib8.quantize(model, ranges, calib8.Int8(), data="calib_data")
    calib8.save(int8, "model.int8.onnx")
    engines = calib8.build("model.int8.onnx", "model-int8.engine")
    calib8.verify("model.onnx", "model.int8.onnx", "held_out", calib8.Verify(min_cosine=0.99))

Importing this package is cheap: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib8.benchmark.run import bench
    from calib8.benchmark.tune import tune
    from calib8.calibration.calibrate import calibrate
    from calib8.calibration.config import Calibrate
    from calib8.calibration.ranges import Ranges
    from calib8.cluster.config import Ray
    from calib8.console import ConsoleProgress
    from calib8.conversion.config import Convert
    from calib8.conversion.run import convert
    from calib8.cost.config import Estimate
    from calib8.cost.estimate import EstimateReport, estimate
    from calib8.data.images import Images, prepare_images
    from calib8.data.sources import batches, npy_folder, npz_file
    from calib8.diagnosis.doctor import Diagnosis, doctor
    from calib8.engine.built import BuiltEngine
    from calib8.engine.config import Build
    from calib8.engine.from_model import build
    from calib8.errors import (
        AccuracyMissed,
        BuildError,
        CacheError,
        Calib8Error,
        ConfigError,
        DataError,
        FetchError,
        InputError,
        LimitMissed,
        ModelError,
        PlanMismatch,
        ProfileError,
        RangesError,
        SetupError,
    )
    from calib8.gpu.monitor import Monitor
    from calib8.graph.io import save
    from calib8.passes.prepare import load
    from calib8.quantization.config import Fp8, Int8, Migrate, Quantize
    from calib8.quantization.export_cache import Exported
    from calib8.quantization.migrate import Migration
    from calib8.quantization.quant_plan import QuantPlan
    from calib8.quantization.quantize import plan, quantize, quantize_file
    from calib8.quantization.sensitivity import Sensitivity, sensitivity
    from calib8.quantization.with_caches import export_cache, migrate
    from calib8.report.bench import BenchReport
    from calib8.report.inspect import inspect
    from calib8.report.report import Report
    from calib8.report.verification import VerificationReport, verdict
    from calib8.runtime.base import Runtime
    from calib8.runtime.choice import Measured
    from calib8.runtime.layer_time import LayerTime
    from calib8.runtime.open import open
    from calib8.runtime.run import run, run_to_folder
    from calib8.serving.config import Serve
    from calib8.serving.server import serve
    from calib8.serving.triton.config import Triton
    from calib8.serving.triton.repository import TritonRepository, export_triton
    from calib8.text.config import Corpus
    from calib8.text.embed_corpus import embed_corpus
    from calib8.text.embed_texts import embed, embed_stream
    from calib8.text.prepare import Prepare, prepare
    from calib8.verification.compare import Comparison
    from calib8.verification.config import Bench, Verify
    from calib8.verification.on_gpu import GpuComparison, compare_on_gpu
    from calib8.verification.run import compare, verify
    from calib8.zoo.fetch import fetch

#: Where each public name lives.
_HOME = {
    "AccuracyMissed": "calib8.errors",
    "Bench": "calib8.verification.config",
    "BenchReport": "calib8.report.bench",
    "Build": "calib8.engine.config",
    "BuildError": "calib8.errors",
    "BuiltEngine": "calib8.engine.built",
    "CacheError": "calib8.errors",
    "Calib8Error": "calib8.errors",
    "Calibrate": "calib8.calibration.config",
    "Comparison": "calib8.verification.compare",
    "ConfigError": "calib8.errors",
    "ConsoleProgress": "calib8.console",
    "Convert": "calib8.conversion.config",
    "Corpus": "calib8.text.config",
    "DataError": "calib8.errors",
    "Diagnosis": "calib8.diagnosis.doctor",
    "Estimate": "calib8.cost.config",
    "EstimateReport": "calib8.cost.estimate",
    "Exported": "calib8.quantization.export_cache",
    "FetchError": "calib8.errors",
    "Fp8": "calib8.quantization.config",
    "GpuComparison": "calib8.verification.on_gpu",
    "Images": "calib8.data.images",
    "InputError": "calib8.errors",
    "Int8": "calib8.quantization.config",
    "LayerTime": "calib8.runtime.layer_time",
    "LimitMissed": "calib8.errors",
    "Measured": "calib8.runtime.choice",
    "Migrate": "calib8.quantization.config",
    "Migration": "calib8.quantization.migrate",
    "ModelError": "calib8.errors",
    "Monitor": "calib8.gpu.monitor",
    "PlanMismatch": "calib8.errors",
    "Prepare": "calib8.text.prepare",
    "ProfileError": "calib8.errors",
    "QuantPlan": "calib8.quantization.quant_plan",
    "Quantize": "calib8.quantization.config",
    "Ranges": "calib8.calibration.ranges",
    "RangesError": "calib8.errors",
    "Ray": "calib8.cluster.config",
    "Report": "calib8.report.report",
    "Runtime": "calib8.runtime.base",
    "Sensitivity": "calib8.quantization.sensitivity",
    "Serve": "calib8.serving.config",
    "SetupError": "calib8.errors",
    "Triton": "calib8.serving.triton.config",
    "TritonRepository": "calib8.serving.triton.repository",
    "VerificationReport": "calib8.report.verification",
    "Verify": "calib8.verification.config",
    "batches": "calib8.data.sources",
    "bench": "calib8.benchmark.run",
    "build": "calib8.engine.from_model",
    "calibrate": "calib8.calibration.calibrate",
    "compare": "calib8.verification.run",
    "compare_on_gpu": "calib8.verification.on_gpu",
    "convert": "calib8.conversion.run",
    "doctor": "calib8.diagnosis.doctor",
    "embed": "calib8.text.embed_texts",
    "embed_corpus": "calib8.text.embed_corpus",
    "embed_stream": "calib8.text.embed_texts",
    "estimate": "calib8.cost.estimate",
    "export_cache": "calib8.quantization.with_caches",
    "export_triton": "calib8.serving.triton.repository",
    "fetch": "calib8.zoo.fetch",
    "inspect": "calib8.report.inspect",
    "load": "calib8.passes.prepare",
    "migrate": "calib8.quantization.with_caches",
    "npy_folder": "calib8.data.sources",
    "npz_file": "calib8.data.sources",
    "open": "calib8.runtime.open",
    "plan": "calib8.quantization.quantize",
    "prepare": "calib8.text.prepare",
    "prepare_images": "calib8.data.images",
    "quantize": "calib8.quantization.quantize",
    "quantize_file": "calib8.quantization.quantize",
    "run": "calib8.runtime.run",
    "run_to_folder": "calib8.runtime.run",
    "save": "calib8.graph.io",
    "sensitivity": "calib8.quantization.sensitivity",
    "serve": "calib8.serving.server",
    "tune": "calib8.benchmark.tune",
    "verdict": "calib8.report.verification",
    "verify": "calib8.verification.run",
}

__all__ = [
    "AccuracyMissed",
    "Bench",
    "BenchReport",
    "Build",
    "BuildError",
    "BuiltEngine",
    "CacheError",
    "Calib8Error",
    "Calibrate",
    "Comparison",
    "ConfigError",
    "ConsoleProgress",
    "Convert",
    "Corpus",
    "DataError",
    "Diagnosis",
    "Estimate",
    "EstimateReport",
    "Exported",
    "FetchError",
    "Fp8",
    "GpuComparison",
    "Images",
    "InputError",
    "Int8",
    "LayerTime",
    "LimitMissed",
    "Measured",
    "Migrate",
    "Migration",
    "ModelError",
    "Monitor",
    "PlanMismatch",
    "Prepare",
    "ProfileError",
    "QuantPlan",
    "Quantize",
    "Ranges",
    "RangesError",
    "Ray",
    "Report",
    "Runtime",
    "Sensitivity",
    "Serve",
    "SetupError",
    "Triton",
    "TritonRepository",
    "VerificationReport",
    "Verify",
    "batches",
    "bench",
    "build",
    "calibrate",
    "compare",
    "compare_on_gpu",
    "convert",
    "doctor",
    "embed",
    "embed_corpus",
    "embed_stream",
    "estimate",
    "export_cache",
    "export_triton",
    "fetch",
    "inspect",
    "load",
    "migrate",
    "npy_folder",
    "npz_file",
    "open",
    "plan",
    "prepare",
    "prepare_images",
    "quantize",
    "quantize_file",
    "run",
    "run_to_folder",
    "save",
    "sensitivity",
    "serve",
    "tune",
    "verdict",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "__version__":
        return import_module("importlib.metadata").version("calib8")
    if name not in __all__:
        raise AttributeError(f"module 'calib8' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
