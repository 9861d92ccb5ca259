"""Why TensorRT refused, and what to do about it."""

import re
import signal
from pathlib import Path

from calib8.engine.family import MODULES, TensorRT
from calib8.engine.process import Outcome, without_cuda_noise
from calib8.engine.targets import describe
from calib8.errors import BuildError

#: Pattern in what TensorRT says -> what to do. The first match counts. All but the last three were met in builds with
#: TensorRT-RTX 1.7.1 (tests/engine/test_refusals.py).
REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"FP32 GEMM is not supported",
        "Turing has no FP32 GEMM here: quantise with the FP16 remainder; where that is so, and FP16 does not hold the "
        "node's numbers, scale them down in the model, or drop sm75",
    ),
    (r"HW-specific datatypes", "Turing knows no bfloat16 and no FP8: convert the model to FP16, or drop sm75"),
    (r"Attention operation was not supported", "attention in one op runs in FP16 only: use the FP16 remainder"),
    (r"[Nn]on-zero zero point", "quantise symmetrically, with int8 zero points of 0"),
    (
        r"Scale coefficients must all be positive",
        "calibrate again, on data that reaches this tensor: scales must be > 0",
    ),
    (r"only allowed before DQ", "put DequantizeLinear right behind every int8 constant, before Gather or Reshape"),
    (r"Int32 but must have type", "leave biases in float: DequantizeLinear of an int32 constant is for ONNX Runtime"),
    (
        r"must have same input types|same types",
        "the network is strongly typed: put a Cast where float16 and float32 meet",
    ),
    (
        r"operator (DynamicQuantizeLinear|MatMulInteger|ConvInteger|QLinear\w+)",
        "that is ONNX Runtime's quantisation: start from the float model, with `calib8 quantize`",
    ),
    (r"Unsupported reduction type", "TensorRT-RTX scatters without a reduction only: export without one"),
    (r"no importer|UNSUPPORTED_NODE|Plugin not found|does not know", "TensorRT lacks this operator: export without it"),
    (r"Failed to convert ONNX da\w+ type", "an input has a type that TensorRT lacks: use float or int64 inputs"),
    (
        r"mScopedOp2Scopes|< op->input_size\(\)",
        "TensorRT-RTX has such an error where an If stands in a branch of another: export by tracing, with inputs of "
        "fixed sizes, or build no engine (--no-engine) to quantise it for CPUs",
    ),
    (r"[Ww]orkspace", "raise the workspace limit, or give none"),
    (
        r"[Oo]ut of memory|OutOfMemory|[Cc]annot allocate memory|bad_alloc|MemoryError",
        "free memory, or give smaller maximum shapes",
    ),
    (
        r"Unable to load library: libnvinfer_builder_resource",
        "of this TensorRT the part for this GPU is not installed: pip install tensorrt",
    ),
    (r"CUDA driver|CUDA init|did not start", "this TensorRT builds on a GPU with a driver: use family rtx"),
    (r"ParseFromCodedStream|MODEL_DESERIALIZE", "the ONNX file is damaged: export or download it again"),
)
_NODE = re.compile(r"node '([^']+)' \(|(?:Cannot compile operation|with name:) '?([^'\s:,]+)'?")
#: The parser's log repeats what it answers, a line at a time.
_CHATTER = re.compile(r"ModelImporter\.cpp:\d+: |Invalid Node - .*")


def build_error(outcome: Outcome, model: Path, target: str, builder: str) -> BuildError:
    """The error for a build without an engine: TensorRT's reasons, the ONNX node if it names one, and a remedy."""
    told, remedy = _told(outcome)
    remedy = f"Remedy: {remedy}." if remedy else "Build again with a log file and look there for the first error."
    return BuildError(f"{builder} did not build {model.name} for {describe(target)}: {told} {remedy}")


def parse_error(outcome: Outcome, model: Path, tensorrt: TensorRT) -> BuildError:
    """The error for a float model that TensorRT does not parse, so that quantising it would lead to no engine."""
    told, remedy = _told(outcome)
    other = next(family for family in MODULES if family != tensorrt.family)
    return BuildError(
        f"{tensorrt.title} cannot parse {model.name}, so there would be no engine: {told} "
        + (f"Remedy: {remedy}. " if remedy else "")
        + f"Nothing was calibrated. To quantise it for CPUs, build none (--no-engine); or try the other TensorRT "
        f"(--family {other})."
    )


def _told(outcome: Outcome) -> tuple[str, str | None]:
    """The reasons and the node, as sentences, and what to do, if that is known."""
    reasons = _reasons(outcome)
    text = " | ".join(reason.rstrip(".") for reason in reasons[:4]) or "it gave no reason"
    node = next((match[1] or match[2] for reason in reasons if (match := _NODE.search(reason))), None)
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text)), None)
    return f"{text}. ONNX node: {node}." if node else f"{text}.", remedy


def _reasons(outcome: Outcome) -> list[str]:
    """What TensorRT answered and logged, each thing once."""
    logged = [text for text in outcome.log.errors() if not _CHATTER.match(text)]
    answered = [_CHATTER.sub("", without_cuda_noise(text)) for text in outcome.refused or []]
    reasons: list[str] = []
    for text in (" ".join(reason.split()) for reason in [*answered, *logged]):
        if not any(text in known for known in reasons):
            reasons.append(text)
    return [*reasons, _death(outcome)] if outcome.refused is None else reasons


def _death(outcome: Outcome) -> str:
    printed = " ".join(text for severity, text in outcome.log.lines[-5:] if severity == "PRINTED")
    if outcome.exit_code < 0:
        return f"its process died of {signal.Signals(-outcome.exit_code).name} {printed}".strip()
    return f"its process ended with code {outcome.exit_code} {printed}".strip()
