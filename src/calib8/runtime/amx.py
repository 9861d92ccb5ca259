"""Keep OpenVINO from convolving with kernels that are wrong: those of oneDNN for AMX, and bf16's for AVX512-BF16.

Where few positions are convolved, as behind a global pooling, they misread the constant of an op per channel that was
fused behind an activation (as of OpenVINO 2026.4): with int8 activations numbers are wrong, with uint8 ones it crashes.
Which instructions oneDNN may use is read from the environment once in a process, when OpenVINO compiles its first
model. So a process whose first model convolves does without AMX, which costs its convolutions a fifth of their speed;
in one whose first model did not, OpenVINO is not used for a model that does.
"""

import os
import sys
from threading import Lock

import onnx_ir as ir

#: Where oneDNN looks for the instructions that it may use, and the best that convolve right.
SETTING, BEST = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"
#: Those that do not contain the kernels above, as they may have been set from outside.
RIGHT = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", BEST)
FLAGS = ("amx_int8", "avx512_bf16")


class Instructions:
    """Which instructions OpenVINO has in this process: settled by the first model that it is to compile."""

    def __init__(self, flags: str) -> None:
        """``flags``: what the CPU says of itself."""
        self._affected = any(flag in flags for flag in FLAGS)
        self._right: bool | None = None
        self._lock = Lock()

    def allow(self, model: ir.Model) -> bool:
        """Whether OpenVINO may compute ``model`` now, before anything is settled."""
        return not self._affected or not convolves(model) or self._may_be_right()

    def settle(self, model: ir.Model) -> bool:
        """Called before OpenVINO compiles ``model``: whether it may."""
        with self._lock:
            allowed = self.allow(model)
            if allowed and self._affected and self._right is None:
                self._right = self._may_be_right() and (convolves(model) or SETTING in os.environ)
                if self._right:
                    os.environ.setdefault(SETTING, BEST)
            return allowed

    def _may_be_right(self) -> bool:
        if self._right is not None:
            return self._right
        if SETTING in os.environ:
            return os.environ[SETTING].upper() in RIGHT
        return "openvino" not in sys.modules  # somebody else may have compiled a model


def convolves(model: ir.Model) -> bool:
    """Whether a quantised ``model`` has a Conv."""
    kinds = {node.op_type for node in model.graph.all_nodes()}
    return {"Conv", "QuantizeLinear"} <= kinds
