"""A Q/DQ model of calib8 in ONNX Runtime, with the execution provider that fits the machine.

    import onnxruntime as ort
    from calib8.integrations.onnxruntime import providers, session_options

    session = ort.InferenceSession(
        "model.int8.onnx",
        session_options("tensorrt"),
        providers=providers("model.int8.onnx", "tensorrt", cache="engines"),
    )

or ``open_session("model.int8.onnx", "tensorrt", cache="engines")``, which also refuses to fall back to another provider
in silence. What each option is for, and where that is documented: docs/integrations.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import onnx_ir as ir

from calib8.data.inputs import Arrays
from calib8.engine.config import Build
from calib8.engine.profiles import Profile
from calib8.errors import ConfigError, ModelError, SetupError
from calib8.files import require_file, require_folder
from calib8.graph.io import SOURCE_SHA256, load, serialized
from calib8.runtime.canary import KINDS, check, kinds_of, wrong
from calib8.runtime.forms import float_codes
from calib8.telemetry import onnxruntime

Target: TypeAlias = Literal["tensorrt", "tensorrt-rtx", "cuda", "openvino", "cpu"]
Provider: TypeAlias = "tuple[str, dict[str, Any]]"

NAMES: dict[Target, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
#: The package that has a provider.
PACKAGES: dict[Target, str] = {
    "tensorrt": "onnxruntime-gpu, and TensorRT 10",
    "tensorrt-rtx": "a build of ONNX Runtime with TensorRT-RTX",
    "cuda": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "cpu": "onnxruntime",
}
#: What is not INT8 computes in FP32; on CPUs with bf16 units OpenVINO would round it to that.
OPENVINO_CONFIG = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
#: Compilers of their own, which get the graph as it is in the file.
COMPILERS: tuple[Target, ...] = ("tensorrt", "tensorrt-rtx", "openvino")


def providers(
    model: Path | str,
    target: Target,
    *,
    shapes: Any = (),
    cache: Path | str | None = None,
    device: int = 0,
) -> list[Provider]:
    """What ``onnxruntime.InferenceSession`` takes as ``providers``: the one for ``target``, and what it falls back on.

    shapes: what TensorRT optimises for, as in ``calib8.Build``; by default what ``calib8 build`` takes.
    cache: folder for what TensorRT compiles, made if it is not there. In it, each model and each ONNX Runtime has a
        folder of its own for engines, because ONNX Runtime looks for an engine by the names in a graph, and would take
        the old one for a model that was quantised anew. Compiled anew in every process if None.
    device: number of the GPU.
    Raises ``ConfigError`` for an unknown target or an option that it does not have, ``ProfileError`` for impossible
    shapes, ``ModelError``, ``InputError`` if there is no such file.
    """
    path = require_file(Path(model), "model")
    _require_target(target)
    given = {"shapes": shapes, "cache": cache, "device": device}
    known = {"tensorrt": set(given), "tensorrt-rtx": set(given), "cuda": {"device"}}.get(target, set())
    if strange := [name for name, value in given.items() if value and name not in known]:
        raise ConfigError(f"the {target} execution provider has no {strange[0]}. Leave it out.")
    cpu: Provider = (NAMES["cpu"], {})
    if target == "cpu":
        return [cpu]
    if target == "openvino":
        return [(NAMES[target], {"device_type": "CPU", "load_config": OPENVINO_CONFIG}), cpu]
    cuda: Provider = (NAMES["cuda"], {"device_id": device})
    if target == "cuda":
        return [cuda, cpu]
    return [(NAMES[target], {"device_id": device, **_compiled(path, target, shapes, cache)}), cuda, cpu]


def session_options(target: Target) -> Any:
    """``onnxruntime.SessionOptions`` with which ONNX Runtime leaves the Q/DQ of the model as calib8 made them.

    Raises ``ConfigError`` for an unknown target.
    """
    _require_target(target)
    ort = onnxruntime()
    options = ort.SessionOptions()
    if target in COMPILERS:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif target == "cuda":  # it has no INT8 kernels for Q/DQ: weights become float once, not in every run
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    elif target == "cpu":  # a float activation that meets INT8 weights stays float
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        if wrong("onnxruntime", "s8", KINDS) is not None:  # slow, and right
            options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def open_session(model: Path | str, target: Target, *, options: Any = None, **wanted: Any) -> Any:
    """An ``onnxruntime.InferenceSession`` of ``model`` on ``target``, with ``session_options`` and ``providers``.

    options: in place of ``session_options(target)``. ``wanted`` is what ``providers`` takes besides.
    Raises what ``providers`` does, ``SetupError`` if this ONNX Runtime has no such provider, would fall back on
    another, or computes INT8 wrong on this CPU, ``ModelError`` if it refuses the model.
    """
    chosen, ort = providers(model, target, **wanted), onnxruntime()
    here = ort.get_available_providers()
    if NAMES[target] not in here:
        raise SetupError(
            f"this ONNX Runtime has no {NAMES[target]}, only {', '.join(here)}. Install {PACKAGES[target]}."
        )
    given = session_options(target) if options is None else options

    def opened(source: str | bytes) -> Any:
        return ort.InferenceSession(
            source,
            given,
            providers=[one for one in chosen if one[0] in here],
            # A Gemm with a float bias has no integer kernel on the CPU.
            disabled_optimizers=["MatMulAddFusion"] if target == "cpu" else None,
            enable_fallback=False,
        )

    try:
        if target in ("cpu", "openvino"):
            _require_exact(load(Path(model)), target, opened)
        session = opened(str(model))
    except SetupError:
        raise
    except Exception as error:  # ONNX Runtime raises many unrelated types, all with the reason as text
        raise ModelError(f"ONNX Runtime does not open {model} on {target}: {str(error).strip()[:300]}") from error
    if NAMES[target] not in session.get_providers():
        raise SetupError(
            f"ONNX Runtime fell back from {NAMES[target]} to {', '.join(session.get_providers())}: its libraries do "
            f"not load. Check that those it needs are installed: {PACKAGES[target]}."
        )
    return session


def _require_exact(model: ir.Model, target: Target, opened: Callable[[bytes], Any]) -> None:
    """Raise ``SetupError`` for FP8, or if the INT8 kernels that a session would take compute wrong on this CPU."""
    if told := float_codes(model):
        raise SetupError(
            f"the {NAMES[target]} is not used for {told}: ONNX Runtime takes a Relu away before Q, which is wrong. "
            "Use calib8.open, which does not let it, or the target tensorrt."
        )

    def run(question: ir.Model, feeds: Arrays) -> Arrays:
        session = opened(serialized(question))
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    for kind in kinds_of(model):
        if not (answer := check(kind, run)).exact:
            raise SetupError(
                f"the {NAMES[target]} computes INT8 wrong on this CPU with these options: {answer}. Use calib8.open, "
                "which takes what is exact, or the target cpu without options."
            )


def _compiled(path: Path, target: Target, shapes: Any, cache: Path | str | None) -> dict[str, Any]:
    """Options of the two TensorRT providers."""
    model = load(path)
    profiles = Build(shapes=shapes).profiles(model)
    folder = None if cache is None else Path(cache).absolute()
    if folder is not None:
        require_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)  # ONNX Runtime makes one level only
    if target == "tensorrt-rtx":  # its cache holds kernels and nothing of a model
        return _shapes("nv_profile", profiles) | ({} if folder is None else {"nv_runtime_cache_path": str(folder)})
    # With either of these types the network is not strongly typed, and TensorRT chooses the types.
    options = {"trt_fp16_enable": False, "trt_int8_enable": False, **_shapes("trt_profile", profiles)}
    if folder is not None:
        options |= {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(folder / _identity(model)),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(folder),
        }
    return options


def _shapes(prefix: str, profiles: tuple[Profile, ...]) -> dict[str, str]:
    """``input_ids:1x1,attention_mask:1x1`` for the smallest, usual and largest; an input again is a further profile."""
    return {
        f"{prefix}_{side}_shapes": ",".join(f"{one.name}:{'x'.join(map(str, getattr(one, side)))}" for one in profiles)
        for side in ("min", "opt", "max")
        if profiles
    }


def _identity(model: ir.Model) -> str:
    """What an engine may be used for again: the file that ``model`` was loaded from, in this ONNX Runtime."""
    return f"{model.metadata_props[SOURCE_SHA256][:16]}-{onnxruntime().__version__}"


def _require_target(target: str) -> None:
    if target not in get_args(Target):
        raise ConfigError(f"got the target {target!r}, expected one of {', '.join(get_args(Target))}.")
