"""Keep OpenVINO from convolving with kernels that are wrong: those of oneDNN for AMX, and bf16's for AVX512-BF16.

Where few positions are convolved, as behind a global pooling, they misread the constant of an op per channel that was
fused behind an activation (as of OpenVINO 2026.4): with int8 activations numbers are wrong, with uint8 ones it crashes,
so that the canary must not ask. Which instructions oneDNN may use is read from the environment once in a process, when
OpenVINO compiles its first model. So a process whose first model convolves does without AMX, which costs its
convolutions a fifth of their speed; in one whose first model did not, OpenVINO is not used for a model that does.
"""

import os
import sys
from functools import cache
from threading import Lock

import onnx_ir as ir

from calib8.runtime.processor import has_bf16

#: Where oneDNN looks for the instructions that it may use, and the best that convolve right.
SETTING, BEST = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"
#: Those without the kernels above, as they may have been set from outside.
RIGHT = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", BEST)
#: Why OpenVINO is not used, and what to do.
REFUSED = (
    "OpenVINO uses AMX in this process, whose INT8 convolutions are wrong: open a model with convolutions before any "
    f"other, or set {SETTING}={BEST}"
)


class Instructions:
    """Which instructions OpenVINO has in this process: settled by what it is to compute first."""

    def __init__(self, *, affected: bool) -> None:
        """``affected``: whether the CPU may have the instructions of the kernels that are wrong."""
        self._affected = affected
        self._right: bool | None = None
        self._lock = Lock()

    def settle(self, *, convolves: bool) -> bool:
        """Called before OpenVINO computes anything: whether it may, if a model ``convolves`` and is quantised."""
        with self._lock:
            if self._affected and self._right is None:
                self._right = self._decide(convolves)
            return not self._affected or not convolves or bool(self._right)

    def _decide(self, convolves: bool) -> bool:
        if SETTING in os.environ:
            return os.environ[SETTING].upper() in RIGHT
        if not convolves or "openvino" in sys.modules:  # somebody else may have compiled a model
            return False
        os.environ[SETTING] = BEST
        return True


@cache
def instructions() -> Instructions:
    """Those of this process."""
    return Instructions(affected=has_bf16() is not False)


def convolves(model: ir.Model) -> bool:
    """Whether ``model`` has a Conv; one in FP32 is right with any instructions, often opened before that in INT8."""
    return any(node.op_type == "Conv" for node in model.graph.all_nodes())
