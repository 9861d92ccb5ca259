"""Names of the CPU runtimes that a user can choose."""

from typing import Literal, TypeAlias

RuntimeName: TypeAlias = Literal["openvino", "onnxruntime"]
#: ``auto`` takes what was measured to be fastest, see ``runtime.choice``.
CpuRuntime: TypeAlias = Literal["auto", "openvino", "onnxruntime"]
#: For people.
NAMES: dict[RuntimeName, str] = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
