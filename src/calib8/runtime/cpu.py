"""The CPU runtime and model form to use: what was measured to be fastest (bench/results)."""

import importlib.util
import platform
from pathlib import Path

import onnx_ir as ir

from calib8.passes.cpu_form import to_cpu_form
from calib8.runtime.base import Runtime
from calib8.runtime.names import CpuRuntime


def open_cpu(model: ir.Model, runtime: CpuRuntime = "auto", *, threads: int | None = None) -> Runtime:
    """Open ``model`` (FP32, FP16 or Q/DQ) on the CPU; the model itself is not changed.

    ``auto`` takes OpenVINO for an INT8 model where it is installed, ONNX Runtime otherwise.
    """
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph)
    if runtime == "auto":
        runtime = "openvino" if quantised and importlib.util.find_spec("openvino") else "onnxruntime"
    form = to_cpu_form(model.clone(), unsigned=quantised and has_vnni())
    if runtime == "openvino":
        from calib8.runtime.openvino import OpenVinoRuntime

        return OpenVinoRuntime(form, threads=threads)
    from calib8.runtime.ort import OrtRuntime

    return OrtRuntime(form, threads=threads)


def has_vnni() -> bool:
    """Whether the CPU multiplies u8 by s8 without saturating (AVX512-VNNI or AVX-VNNI).

    Older x86 cores add two products in 16 bits, which saturates for uint8 activations; they get the int8 form.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "vnni" in cpuinfo.read_text(encoding="utf-8", errors="replace")
