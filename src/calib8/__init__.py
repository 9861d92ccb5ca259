"""calib8 turns a trained ONNX model into an INT8 TensorRT engine, and proves that the engine is worth shipping.

    import calib8

    model = calib8.load("model.onnx")
    ranges = calib8.calibrate(model, calib8.npy_folder("calib_data"))
    int8 = calib8.quantize(model, ranges, calib8.Int8())
    calib8.save(int8, "model.int8.onnx")
    engines = calib8.build("model.int8.onnx", "model-int8.engine")
    calib8.verify("model.onnx", "model.int8.onnx", "held_out").raise_for_failure(calib8.Verify(min_cosine=0.99))

Importing this package is cheap: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib8.api import (
        batches,
        build,
        calibrate,
        convert,
        export_cache,
        fetch,
        load,
        migrate,
        npy_folder,
        npz_file,
        open,
        plan,
        prepare,
        quantize,
        run,
        save,
        sensitivity,
    )
    from calib8.calibration.config import Calibrate
    from calib8.cluster.config import Ray
    from calib8.console import ConsoleProgress
    from calib8.convert import Convert
    from calib8.engine.config import Build
    from calib8.errors import Calib8Error
    from calib8.gpu.monitor import Monitor
    from calib8.judging import bench, doctor, inspect, tune, verify
    from calib8.quantization.config import Int8, Migrate
    from calib8.serving.config import Serve
    from calib8.serving.server import serve
    from calib8.serving.triton.config import Triton
    from calib8.serving.triton.repository import export_triton
    from calib8.text.embed_corpus import Corpus, embed_corpus
    from calib8.text.embed_texts import embed, embed_stream
    from calib8.text.tokenizer import Prepare
    from calib8.verification.config import Bench, Verify

_HOME = {
    "Bench": "calib8.verification.config",
    "Build": "calib8.engine.config",
    "Calib8Error": "calib8.errors",
    "Calibrate": "calib8.calibration.config",
    "ConsoleProgress": "calib8.console",
    "Convert": "calib8.convert",
    "Corpus": "calib8.text.embed_corpus",
    "Int8": "calib8.quantization.config",
    "Migrate": "calib8.quantization.config",
    "Monitor": "calib8.gpu.monitor",
    "Prepare": "calib8.text.tokenizer",
    "Ray": "calib8.cluster.config",
    "Serve": "calib8.serving.config",
    "Triton": "calib8.serving.triton.config",
    "Verify": "calib8.verification.config",
    "bench": "calib8.judging",
    "doctor": "calib8.judging",
    "embed": "calib8.text.embed_texts",
    "embed_corpus": "calib8.text.embed_corpus",
    "embed_stream": "calib8.text.embed_texts",
    "export_triton": "calib8.serving.triton.repository",
    "inspect": "calib8.judging",
    "serve": "calib8.serving.server",
    "tune": "calib8.judging",
    "verify": "calib8.judging",
}

__all__ = [
    "Bench",
    "Build",
    "Calib8Error",
    "Calibrate",
    "ConsoleProgress",
    "Convert",
    "Corpus",
    "Int8",
    "Migrate",
    "Monitor",
    "Prepare",
    "Ray",
    "Serve",
    "Triton",
    "Verify",
    "batches",
    "bench",
    "build",
    "calibrate",
    "convert",
    "doctor",
    "embed",
    "embed_corpus",
    "embed_stream",
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
    "quantize",
    "run",
    "save",
    "sensitivity",
    "serve",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "__version__":
        return import_module("importlib.metadata").version("calib8")
    if name not in __all__:
        raise AttributeError(f"module 'calib8' has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "calib8.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
