"""Does the engine run in INT8, or FP8, what the model asks for? Judged from its list of kernels (``layers``).

An op is covered if a kernel that multiplies codes by codes (``arithmetic``) computes it, with weights that were
converted when the engine was built. A convolution of TensorRT 10 may be INT8 and yet read its weights from kernels
that convert them in every run: that is a miss.

Is what conditions an activation before Q fused? A node of it is fused if a kernel computes it together with more than
its own chain: Q, or what comes before. The builder joins the last Mul with the scale of Q into one constant, and no
kernel names it any more; such a node is fused if one kernel computes what is named before and behind it. A Gather is
fused at a price behind a normalisation: the builder then computes that in two kernels, not in one. Fused is not free:
see docs/tensorrt.md for what was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from calib8.engine.arithmetic import holds, is_product, multiplies
from calib8.engine.layers import Layer
from calib8.engine.targets import describe, members
from calib8.errors import PlanMismatch
from calib8.precision import Precision

if TYPE_CHECKING:
    from calib8.engine.quantized import Chain, QuantizedOp

#: Raised whenever this check could judge an engine otherwise than before: what missed then is not taken for missed now.
CHECK = 1
TURING = "sm75"
NO_INT8_CONV = "TensorRT-RTX has no INT8 convolution for Turing"
WEIGHTS_AT_RUN_TIME = (
    "INT8, but TensorRT converts its weights in every run (HasDynamicFilter), since Casts stand between their "
    "DequantizeLinear and the op"
)
UNREADABLE = "TensorRT told of no kernels, so nothing shows what runs in INT8"
UNNAMED = "no kernel of the plan names it; keep the builder's log (--tensorrt-log) and look for the node's name"
#: How many kernels a reason shows of an op, and a message reasons.
SHOWN = 3


class PlanCheck(BaseModel):
    """What one engine runs in INT8, against what the model asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    #: Quantised ops in the model, and how many of them an INT8 kernel of the plan computes.
    expected: int
    covered: int
    #: INT8 kernels that compute them, in an optimisation profile: fewer than ``covered`` where the builder merges ops
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
    #: Nodes that the host drives, and why: no CUDA graph can be captured of the engine.
    host_driven: dict[str, str] = {}
    #: What the ops are to be multiplied in.
    precision: Precision = "int8"
    #: Whether the engine is as good as was asked for: nothing is missing, or no more than was allowed.
    passed: bool = True
    #: With a calibrator, where the builder decides and nothing is expected: kernels that multiply in INT8, of all.
    calibrated: tuple[int, int] | None = None

    def describe(self) -> str:
        """For people: what runs in INT8."""
        if self.calibrated is not None:
            return f"{self.calibrated[0]} of {self.calibrated[1]} kernels in INT8, as the builder chose"
        if not self.expected:
            return "nothing in INT8: the model has no quantised op"
        verdict = "" if self.passed else ": FAILED the plan check"
        ops = f"{self.precision.upper()} ops planned {self.covered} of {self.expected}"
        return f"{ops} in {self.planned_kernels} kernels{verdict}"

    def describe_conditioning(self) -> str:
        """For people: what the conditioning costs. No failure, whatever it is: the results are the same."""
        text = f"{self.conditioning - len(self.unfused)} of {self.conditioning} nodes before Q fused"
        if norms := len(self.divided):
            text += f"; {norms} norms take a second kernel" if norms > 1 else "; 1 norm takes a second kernel"
        more = ", …" if len(self.unfused) > 3 else ""
        return text + (f"; not fused: {', '.join(self.unfused[:3])}{more}" if self.unfused else "")

    def describe_host_driven(self) -> str:
        """For people: what keeps CUDA graphs away."""
        named = ", ".join(f"{name} ({why})" for name, why in list(self.host_driven.items())[:5])
        more = f" and {len(self.host_driven) - 5} more" if len(self.host_driven) > 5 else ""
        return f"the host drives {named}{more}, so no CUDA graph can be captured of this engine"

    def describe_failure(self) -> str:
        """For people: the ops that would not run in INT8, and the likely reasons."""
        names: dict[str, list[str]] = {}
        for name in self.missing:
            names.setdefault(self.reasons[name], []).append(name)
        shown = "; ".join(f"{_few(ops)}: {reason}" for reason, ops in list(names.items())[:SHOWN])
        if rest := sum(map(len, list(names.values())[SHOWN:])):
            shown += f"; and {rest} more ops for reasons that the engine's sidecar tells"
        form = (
            "Leave this target out (--target)"
            if list(names) == [NO_INT8_CONV]
            else "Quantise them as TensorRT wants it"
        )
        return (
            f"for {describe(self.target)} the plan runs {self.covered} of {self.expected} quantised ops in "
            f"{self.precision.upper()}. Not in {self.precision.upper()}: {shown}. {form}, or leave them in float "
            "(--exclude)."
        )

    def raise_for_failure(self) -> None:
        """Raise ``PlanMismatch`` that names the ops which would not run in INT8."""
        if not self.passed:
            raise PlanMismatch(self.describe_failure(), failed=[self])


def check_plan(
    ops: Sequence[QuantizedOp],
    layers: Sequence[Layer],
    target: str,
    *,
    rtx: bool = True,
    chains: Sequence[Chain] = (),
    profiles: int = 1,
    precision: Precision = "int8",
) -> PlanCheck:
    """Match the quantised ops of the model with the INT8 kernels of the plan, and conditioning with all its kernels.

    The plan lists the kernels of every optimisation profile, and a fusion does not tell of which it is: an op is
    covered if as many kernels compute it in INT8 as there are profiles.
    """
    kernels = [layer for layer in layers if multiplies(layer, precision)]
    full = _full(ops, kernels, precision)
    found = Counter(op.name for group in full for op in group)
    covered = {name for name, count in found.items() if count >= profiles}
    missing = [op for op in ops if op.name not in covered]
    return PlanCheck(
        target=target,
        expected=len(ops),
        covered=len(covered),
        planned_kernels=math.ceil(len(full) / profiles),
        missing=tuple(op.name for op in missing),
        reasons={
            op.name: _reason(op, layers, kernels, target, rtx) or _evidence(op, layers, found[op.name], profiles)
            for op in missing
        },
        conditioning=sum(len(chain.nodes) for chain in chains),
        unfused=tuple(name for chain in chains for name in _unfused(chain, layers)),
        divided=tuple(chain.source for chain in chains if _divided(chain, layers, profiles)),
        precision=precision,
        passed=not missing,
    )


def count_calibrated(layers: Sequence[Layer], target: str) -> PlanCheck:
    """What a calibrator led to. The builder chooses where INT8 pays, so that nothing is missing whatever it is."""
    kernels = sum(multiplies(layer, "int8") for layer in layers)
    return PlanCheck(target=target, expected=0, covered=0, planned_kernels=0, calibrated=(kernels, len(layers)))


def _full(ops: Sequence[QuantizedOp], kernels: Sequence[Layer], precision: Precision) -> list[list[QuantizedOp]]:
    """The ops that each kernel computes, of those that have room for them."""
    groups = [[op for op in ops if kernel.computes(op.name) and not _converts(kernel, op)] for kernel in kernels]
    return [group for kernel, group in zip(kernels, groups, strict=True) if group and _fits(kernel, group, precision)]


def _converts(kernel: Layer, op: QuantizedOp) -> bool:
    """Does it read the op's constant weights from a kernel that makes them in every run?"""
    return kernel.dynamic_filter and op.weight != ""


def _fits(kernel: Layer, ops: Sequence[QuantizedOp], precision: Precision) -> bool:
    """Has a merged kernel room for the weights of all its ops? Padding may make it larger, never smaller.

    Only where the plan lists constants apart can it be told.
    """
    capacity = sum(math.prod(tensor.dims) for tensor in kernel.constants if holds(tensor, precision))
    return capacity == 0 or capacity >= sum({op.weight: op.weight_elements for op in ops}.values())


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


def _reason(op: QuantizedOp, layers: Sequence[Layer], kernels: Sequence[Layer], target: str, rtx: bool) -> str | None:
    """Why no INT8 kernel computes the op, as far as graph and plan tell."""
    if not layers:
        return UNREADABLE
    if any(kernel.computes(op.name) and _converts(kernel, op) for kernel in kernels):
        return WEIGHTS_AT_RUN_TIME
    if op.hint:
        return op.hint
    if op.kind == "Conv" and TURING in members(target) and rtx:
        return NO_INT8_CONV
    return None


def _evidence(op: QuantizedOp, layers: Sequence[Layer], covered: int, profiles: int) -> str:
    """The kernels that name the op, for who has to find the reason; those that multiply, if any of them does."""
    named = [layer for layer in layers if layer.computes(op.name)]
    named = [layer for layer in named if is_product(layer)] or named
    if not named:
        return UNNAMED
    told = f"found for {covered} of {profiles} profiles; " if profiles > 1 else ""
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"{told}its kernels are {', '.join(map(_shown, named[:SHOWN]))}{more}"


def _shown(kernel: Layer) -> str:
    """``/layer/MatMul_myl0_2 (gemm, sm90_xmma_gemm_f16f16_…, reads Half and Float)``."""
    types = [*(tensor.dtype for tensor in (*kernel.inputs, *kernel.constants)), kernel.weights]
    read = " and ".join(dict.fromkeys(filter(None, types)))
    return f"{kernel.name} ({', '.join(filter(None, [kernel.kind, kernel.tactic, read and f'reads {read}']))})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
