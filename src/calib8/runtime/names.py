"""Names of the CPU runtimes that a user can choose."""

from typing import Literal, TypeAlias

#: ``auto`` takes what was measured to be fastest, see ``runtime.choice``.
CpuRuntime: TypeAlias = Literal["auto", "openvino", "onnxruntime"]
