"""Does the engine run in INT8 what the model asks for? Read from the layer list that the builder prints.

With ``ProfilingVerbosity.DETAILED`` the verbose log ends with a message ``Layers:``, one kernel a line:
``Name: …, LayerType: gemm, Inputs: [ {Name, Dimensions, Datatype} ], Constants: […], Outputs: […], TacticName: …,
StreamId: …, Metadata: [ONNX Layer: q][ONNX Layer: k]``. TensorRT 10 has no ``Constants`` (they are among the inputs)
and writes ``Format/Datatype``. An INT8 GEMM is a ``gemm`` that reads Int8 from both sides, an INT8 convolution such a
``correlation`` (TensorRT-RTX) or ``CaskConvolution`` (TensorRT 10); a silently dequantised GEMM is a
``runtime_fusion``, a dequantised convolution a ``correlation`` that reads Half.

Is what conditions an activation before Q free? A node of it is fused if a kernel computes it together with more than
its own chain: Q, or what comes before. The builder joins the last Mul with the scale of Q into one constant, and no
kernel names it any more; such a node is fused if one kernel computes what is named before and behind it. A Gather is
fused at a price behind a normalisation: the builder then computes that in two kernels, not in one.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from calib8.engine.quantized import Chain, QuantizedOp
from calib8.engine.targets import describe, members
from calib8.errors import PlanMismatch

HEADER = "Layers:"
_TENSOR = re.compile(r"Dimensions: \[((?:-?\d{1,18},)*(?:-?\d{1,18})?)\][^{}]*?atatype: ([^,}]+?) *[,}]")
_PROFILE = re.compile(r"\[profile (\d+)\]")
_INT8 = re.compile(r"\bInt8\b")
TURING = "sm75"
NO_INT8_CONV = "TensorRT-RTX has no INT8 convolution for Turing"
UNEXPLAINED = "the graph shows no reason; keep the builder's log and look for the node's name"


@dataclass(frozen=True)
class Tensor:
    """A tensor that a kernel reads: sizes (-1 where dynamic) and type, for example ``Int8``."""

    dims: tuple[int, ...]
    dtype: str

    @property
    def int8(self) -> bool:
        """Is it INT8, in any layout?"""
        return _INT8.search(self.dtype) is not None


@dataclass(frozen=True)
class Layer:
    """One kernel of the plan."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    #: The name of the kernel; a stub where none was timed.
    tactic: str
    #: Everything after the inputs: outputs, convolution parameters.
    details: str
    #: The ONNX nodes it computes, as TensorRT writes them: ``[ONNX Layer: a][ONNX Layer: b]``.
    metadata: str

    @property
    def profile(self) -> int:
        """The optimisation profile that it belongs to; only kernels that compute a named op tell theirs for sure."""
        found = _PROFILE.search(self.name)
        return int(found[1]) if found else 0

    @property
    def runs_int8(self) -> bool:
        """Does it multiply INT8 by INT8? Tactics of TensorRT 10 say so by name (``…_i8i8_i8i32_…``)."""
        if "i8i8" in self.tactic:
            return True
        operands = sum(tensor.int8 for tensor in (*self.inputs, *self.constants))
        operands += '"Type": "Int8"' in self.details  # the weights of a CaskConvolution
        return operands >= 2 and (self.kind in ("gemm", "correlation") or "conv" in self.kind.lower())

    def computes(self, node: str) -> bool:
        """Does it compute the ONNX node of this name?"""
        return f"[ONNX Layer: {node}]" in self.metadata

    def computes_beyond(self, nodes: Iterable[str]) -> bool:
        """Does it compute anything but these?"""
        rest = self.metadata
        for node in nodes:
            rest = rest.replace(f"[ONNX Layer: {node}]", "")
        return "[ONNX Layer: " in rest

    def weight_capacity(self) -> int | None:
        """How many INT8 weights it holds; None where the plan does not list constants."""
        sizes = [math.prod(tensor.dims) for tensor in self.constants if tensor.int8]
        return sum(sizes) if sizes else None


class PlanCheck(BaseModel):
    """What one engine runs in INT8, against what the model asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    #: Quantised ops in the model, and how many of them an INT8 kernel of the plan computes.
    expected: int
    covered: int
    #: INT8 kernels that compute them, in one optimisation profile: fewer than ``covered`` where the builder merges ops
    #: that read one tensor.
    planned_kernels: int
    #: Names of the quantised ops that no INT8 kernel computes, and for each the likely reason.
    missing: tuple[str, ...] = ()
    reasons: dict[str, str] = {}
    #: Nodes that condition an activation before Q, and the names of those that no kernel is shown to fuse.
    conditioning: int = 0
    unfused: tuple[str, ...] = ()
    #: Normalisations in front of such nodes that take more than one kernel.
    divided: tuple[str, ...] = ()
    #: With a calibrator, where the builder decides and nothing is expected: kernels that multiply in INT8, of all.
    calibrated: tuple[int, int] | None = None

    def describe(self) -> str:
        """For people: what runs in INT8."""
        if self.calibrated is not None:
            return f"{self.calibrated[0]} of {self.calibrated[1]} kernels in INT8, as the builder chose"
        if not self.expected:
            return "nothing in INT8: the model has no quantised op"
        return f"INT8 ops planned {self.covered} of {self.expected} in {self.planned_kernels} kernels"

    def describe_conditioning(self) -> str:
        """For people: what the conditioning costs. No failure, whatever it is: the results are the same."""
        text = f"{self.conditioning - len(self.unfused)} of {self.conditioning} nodes before Q fused"
        if norms := len(self.divided):
            text += f"; {norms} norms take a second kernel" if norms > 1 else "; 1 norm takes a second kernel"
        more = ", …" if len(self.unfused) > 3 else ""
        return text + (f"; not fused: {', '.join(self.unfused[:3])}{more}" if self.unfused else "")

    def raise_for_failure(self) -> None:
        """Raise ``PlanMismatch`` that names the ops which would not run in INT8."""
        if not self.missing:
            return
        names: dict[str, list[str]] = {}
        for name in self.missing:
            names.setdefault(self.reasons[name], []).append(name)
        shown = "; ".join(f"{_few(ops)}: {reason}" for reason, ops in names.items())
        form = (
            "Leave this target out (--target)"
            if list(names) == [NO_INT8_CONV]
            else "Quantise them as TensorRT wants it"
        )
        raise PlanMismatch(
            f"for {describe(self.target)} the plan runs {self.covered} of {self.expected} quantised ops in INT8. "
            f"Not in INT8: {shown}. {form}, or leave them in float (--exclude)."
        )


def parse_layers(messages: Iterable[str]) -> list[Layer]:
    """The layers of the first message that starts with ``Layers:``; empty if none does."""
    text = next((message for message in messages if message.startswith(HEADER)), "")
    return [_layer(line) for line in text.splitlines() if line.startswith("Name: ") and ", LayerType: " in line]


def check_plan(
    ops: Sequence[QuantizedOp],
    layers: Sequence[Layer],
    target: str,
    *,
    rtx: bool = True,
    chains: Sequence[Chain] = (),
    profiles: int = 1,
) -> PlanCheck:
    """Match the quantised ops of the model with the INT8 kernels of the plan, and conditioning with all its kernels.

    The plan lists the kernels of every optimisation profile; an op is covered if each of them computes it in INT8.
    """
    kernels = [layer for layer in layers if layer.runs_int8]
    found = [_full(ops, [kernel for kernel in kernels if kernel.profile == index]) for index in range(profiles)]
    covered = set.intersection(*({op.name for group in full for op in group} for full in found))
    missing = [op for op in ops if op.name not in covered]
    return PlanCheck(
        target=target,
        expected=len(ops),
        covered=len(covered),
        planned_kernels=max(map(len, found)),
        missing=tuple(op.name for op in missing),
        reasons={op.name: _reason(op, target, rtx) for op in missing},
        conditioning=sum(len(chain.nodes) for chain in chains),
        unfused=tuple(name for chain in chains for name in _unfused(chain, layers)),
        divided=tuple(chain.source for chain in chains if _divided(chain, layers, profiles)),
    )


def count_calibrated(layers: Sequence[Layer], target: str) -> PlanCheck:
    """What a calibrator led to. The builder chooses where INT8 pays, so that nothing is missing whatever it is."""
    kernels = sum(layer.runs_int8 for layer in layers)
    return PlanCheck(target=target, expected=0, covered=0, planned_kernels=0, calibrated=(kernels, len(layers)))


def _full(ops: Sequence[QuantizedOp], kernels: Sequence[Layer]) -> list[list[QuantizedOp]]:
    """The ops that each kernel computes, of those that have room for them."""
    groups = [[op for op in ops if kernel.computes(op.name)] for kernel in kernels]
    return [group for kernel, group in zip(kernels, groups, strict=True) if group and _holds(kernel, group)]


def _layer(line: str) -> Layer:
    name, _, rest = line.removeprefix("Name: ").partition(", LayerType: ")
    kind, _, rest = rest.partition(", Inputs: ")
    reads, _, rest = rest.partition(", Outputs: ")
    inputs, _, constants = reads.partition(", Constants: ")
    details, _, metadata = rest.partition(", Metadata: ")
    tactic = details.partition("TacticName: ")[2].partition(",")[0]
    return Layer(name, kind, _tensors(inputs), _tensors(constants), tactic, details, metadata)


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(tuple(int(size) for size in dims.split(",") if size), dtype) for dims, dtype in _TENSOR.findall(text)
    )


def _holds(kernel: Layer, ops: Sequence[QuantizedOp]) -> bool:
    """Has a merged kernel room for the weights of all its ops? Padding may make it larger, never smaller."""
    capacity = kernel.weight_capacity()
    return capacity is None or capacity >= sum({op.weight: op.weight_elements for op in ops}.values())


def _unfused(chain: Chain, layers: Sequence[Layer]) -> list[str]:
    path = [name for name in (chain.source, chain.cast, *chain.nodes, chain.quantize) if name]
    own = [name for name in (chain.cast, *chain.nodes) if name]
    planned = {name: [layer for layer in layers if layer.computes(name)] for name in path}
    unfused = []
    for name in chain.nodes:
        place = path.index(name)
        before = next((planned[n] for n in reversed(path[:place]) if planned[n]), None)
        behind = next((planned[n] for n in path[place + 1 :] if planned[n]), [])
        if planned[name]:
            fused = any(layer.computes_beyond(own) for layer in planned[name])
        else:  # nothing before it: an input of the model, which only what is behind can have taken in
            fused = any(before is None or layer in before for layer in behind)
        if not fused:
            unfused.append(name)
    return unfused


def _divided(chain: Chain, layers: Sequence[Layer], profiles: int) -> bool:
    return chain.normalised and sum(layer.computes(chain.source) for layer in layers) > profiles


def _reason(op: QuantizedOp, target: str, rtx: bool) -> str:
    if op.hint:
        return op.hint
    if op.kind == "Conv" and TURING in members(target) and rtx:
        return NO_INT8_CONV
    return UNEXPLAINED


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
