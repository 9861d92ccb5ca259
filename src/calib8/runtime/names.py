"""The CPU runtimes that a user can choose, and what calib8 has to know of each.

To add one: a module with a ``Runtime`` and ``opened`` (as ``runtime.ort`` has them), and its entry here. This module
loads little: each child of ``calib8 doctor`` begins with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from calib8.errors import ConfigError
from calib8.telemetry import onnxruntime, openvino

RuntimeName: TypeAlias = Literal["openvino", "onnxruntime"]
#: ``auto`` takes what was measured to be fastest, see ``runtime.choice``.
CpuRuntime: TypeAlias = Literal["auto", "openvino", "onnxruntime"]
#: What a GEMM multiplies: codes of activations by codes of weights, or, in ``fp32``, what both stand for.
Form: TypeAlias = Literal["s8", "u8", "u8u8", "fp32"]


@dataclass(frozen=True)
class CpuKind:
    """A CPU runtime. ``title``: for people; ``module``: its home, loaded when it is used; ``library``: what doctor
    shows of the package, which raises what its import raises.

    x86, elsewhere: each form of INT8 that it takes (see ``runtime.forms``), with its place among those of all runtimes
    from fast to slow, where all are exact. float_codes: whether its Q and DQ are known to round to FP8 as ONNX says.
    bf16: whether it can compute the remainder in bf16. required: whether it comes with calib8; the package of another
    is of its own name.
    """

    title: str
    module: str
    library: Callable[[], dict[str, Any]]
    x86: Mapping[Form, int]
    elsewhere: Mapping[Form, int]
    float_codes: bool = False
    bf16: bool = False
    required: bool = False


def _onnxruntime() -> dict[str, Any]:
    ort = onnxruntime()
    return {"version": ort.__version__, "details": {"providers": ", ".join(ort.get_available_providers())}}


def _openvino() -> dict[str, Any]:
    return {"version": openvino().__version__.partition("-")[0]}


#: uint8 is for ONNX Runtime, which on x86 computes only a third of the int8 form's GEMMs in integers. What is always
#: exact comes last: Q and DQ computed in FP32. Measured in bench/results.
RUNTIMES: dict[RuntimeName, CpuKind] = {
    "onnxruntime": CpuKind(
        "ONNX Runtime",
        "calib8.runtime.ort",
        _onnxruntime,
        x86={"u8": 1, "u8u8": 2, "s8": 5, "fp32": 6},
        elsewhere={"s8": 1, "u8": 2, "u8u8": 5, "fp32": 6},
        float_codes=True,
        required=True,
    ),
    "openvino": CpuKind(
        "OpenVINO",
        "calib8.runtime.openvino",
        _openvino,
        x86={"s8": 0, "u8": 3, "u8u8": 4},
        elsewhere={"s8": 0, "u8": 3, "u8u8": 4},
        bf16=True,
    ),
}
#: For people.
NAMES: dict[RuntimeName, str] = {name: kind.title for name, kind in RUNTIMES.items()}


def require_known(runtime: str) -> None:
    """Raise ``ConfigError`` for a runtime that is none."""
    if runtime != "auto" and runtime not in RUNTIMES:
        raise ConfigError(f"unknown CPU runtime {runtime!r}: expected auto or one of {', '.join(RUNTIMES)}.")
