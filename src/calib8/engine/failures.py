"""Why TensorRT refused, and what to do about it."""

import re
import signal
from pathlib import Path

from calib8.engine.process import Outcome, without_cuda_noise
from calib8.engine.targets import describe
from calib8.errors import BuildError

#: Pattern in what TensorRT says -> what to do. The first match counts.
REMEDIES: tuple[tuple[str, str], ...] = (
    (r"FP32 GEMM is not supported", "Turing has no FP32 GEMM here: quantise with the FP16 remainder, or drop sm75"),
    (r"[Nn]on-zero zero point", "quantise symmetrically, with int8 zero points of 0"),
    (r"only allowed before DQ", "put DequantizeLinear right behind every int8 constant, before Gather or Reshape"),
    (
        r"must have same input types|same types",
        "the network is strongly typed: put a Cast where float16 and float32 meet",
    ),
    (r"no importer|UNSUPPORTED_NODE|Plugin not found", "TensorRT does not know this operator: export without it"),
    (r"[Ww]orkspace", "raise the workspace limit, or give none"),
    (r"[Oo]ut of memory|OutOfMemory", "free memory, or give smaller maximum shapes"),
    (r"CUDA driver|CUDA initialization|no usable CUDA", "this TensorRT builds on a GPU with a driver: use family rtx"),
    (r"ParseFromCodedStream|MODEL_DESERIALIZE", "the ONNX file is damaged: export or download it again"),
)
_NODE = re.compile(r"(?:Cannot compile operation|with name:) '?([^'\s:,]+)'?")


def build_error(outcome: Outcome, model: Path, target: str, builder: str) -> BuildError:
    """The error for a build without an engine: TensorRT's reasons, the ONNX node if it names one, and a remedy."""
    reasons = list(dict.fromkeys([*map(without_cuda_noise, outcome.refused or []), *outcome.log.errors()]))
    if outcome.refused is None:
        reasons.append(_death(outcome))
    text = " | ".join(" ".join(reason.split()) for reason in reasons[:4]) or "it gave no reason"
    node = next((match[1] for reason in reasons if (match := _NODE.search(reason))), None)
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text)), None)
    parts = [
        f"{builder} did not build {model.name} for {describe(target)}: {text}.",
        f"ONNX node: {node}." if node else "",
        f"Remedy: {remedy}." if remedy else "Build again with a log file and look there for the first error.",
    ]
    return BuildError(" ".join(part for part in parts if part))


def _death(outcome: Outcome) -> str:
    printed = " ".join(text for severity, text in outcome.log.lines[-5:] if severity == "PRINTED")
    if outcome.exit_code < 0:
        return f"its process died of {signal.Signals(-outcome.exit_code).name} {printed}".strip()
    return f"its process ended with code {outcome.exit_code} {printed}".strip()
