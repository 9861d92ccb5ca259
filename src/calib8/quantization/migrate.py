"""From a TensorRT 8 to 10 calibration cache to explicit Q/DQ: the same scales, to the bit, in the form of TensorRT 11.

Rules:
1. TensorRT's ONNX parser names tensors as the ONNX file does: an entry fits the tensor of its name. Names are those of
   the file as it was calibrated, before ``prepare``: a tensor that has lost one to it, with an Identity, gets it back.
2. A tensor without an entry takes that of the tensor which it only rearranges (Flatten before a Gemm, say).
3. An op whose input has no scale, or one that INT8 cannot have, stays in float, as in TensorRT itself.
4. A cache that has a scale for fewer than half of these inputs is of another model.
5. The cache goes into the model whole, so that the way back (``export_cache``) loses nothing.
"""

from importlib.metadata import version
from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from calib8.caches.cache import Cache, is_usable
from calib8.calibration.bounds import require_plausible, require_scales, require_seen
from calib8.calibration.collect import collect
from calib8.calibration.reached import unfit
from calib8.data.sources import Source
from calib8.data.split import First
from calib8.errors import CacheError, ModelError
from calib8.graph.dataset import dataset_for, samples_for
from calib8.graph.io import SOURCE_SHA256
from calib8.graph.values import dropped_identities, name_of
from calib8.graph.weighted import WeightedOp, weighted_ops
from calib8.numerics import LEVELS
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.plain_convolutions import plain_convolutions
from calib8.passes.prepare import prepare
from calib8.passes.reach import mark_reach
from calib8.progress import Progress, Quiet
from calib8.provenance import Origin
from calib8.quantization.apply import finish
from calib8.quantization.config import Migrate
from calib8.quantization.policy import selected
from calib8.quantization.quant_plan import OpPlan, QuantPlan

#: Samples of data that ranges are held against.
LOOKED_AT = 16
#: metadata_props key: the text of the cache that a model was migrated from.
CACHE = "calib8.cache"
#: Operators that keep every number of their first input, or repeat it.
REARRANGING = ("Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
#: What TensorRT calls the tensors that it adds to a network.
BUILTIN = ("(Unnamed ", "ONNXTRT_")


class Migration(BaseModel):
    """What became of a cache and a model.

    header: first line of the cache.
    used: tensor that INT8 ops read -> entry that holds its scale.
    missing, unusable: tensors without an entry, or whose entry is 0, infinite or subnormal; their ops stay in float.
    unneeded: entries of tensors that no INT8 op reads. builtin: those of tensors that TensorRT added itself.
    unknown: entries that name nothing in the model.
    unheld: float tensors that FP16 does not hold, by the data, and that stay FP32; None where the rest is FP16 and
        nobody looked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["calib8.migration/1"] = "calib8.migration/1"
    header: str
    int8_ops: int
    weighted_ops: int
    used: dict[str, str]
    missing: tuple[str, ...]
    unusable: tuple[str, ...]
    unneeded: tuple[str, ...]
    builtin: tuple[str, ...]
    unknown: tuple[str, ...]
    unheld: tuple[str, ...] | None = None


def migrate(
    model: ir.Model,
    cache: Cache,
    config: Migrate,
    origin: Origin | None,
    progress: Progress,
    data: Source | None = None,
) -> tuple[ir.Model, Migration]:
    """Quantise ``model`` (as ``graph.io.load`` gives it, and no longer of use then) by the scales of ``cache``.

    ``origin`` is what the cache was made from, where that is known; against the first samples of ``data`` its ranges
    are held, and they show what FP16 does not hold (see ``passes.reach``). Raises ``CacheError`` for a cache of another
    model, one that holds 1 / scale or ranges that the data contradict, and with ``config.strict`` for any missing
    scale; ``ModelError`` if nothing can be INT8.
    """
    known = _names(model)
    cache = cache.inverted() if config.inverse_scales else cache
    model = _called_as_in(cache, prepare(model))
    ops = weighted_ops(model)
    chosen = selected(model, config)
    if not chosen:
        raise ModelError(
            "there is no MatMul, Gemm or Conv with a constant float weight to quantise. If the model is quantised "
            "already, give its FP32 original; otherwise change --include and --exclude."
        )
    wanted = {name_of(op.activation): op.activation for op in ops if op.name in chosen}
    entries = {tensor: entry for tensor, value in wanted.items() if (entry := _entry_for(value, cache)) is not None}
    _require_match(cache, wanted, entries, known)
    require_scales(model, cache, progress)
    amax = cache.amax()
    used = {tensor: entry for tensor, entry in entries.items() if entry in amax}
    if not used or (config.strict and len(used) < len(wanted)):
        raise CacheError(_lacking(wanted, used))
    ranges = {tensor: amax[entry] for tensor, entry in used.items()}
    require_plausible(model, ranges, progress)
    unheld: tuple[str, ...] | None = None if config.remainder == "fp16" else ()
    if data is not None:
        few = dataset_for(model, First(samples_for(model, data, progress), LOOKED_AT), progress)
        seen = collect(model, few, Quiet())
        require_seen(ranges, {name: found.amax for name, found in seen.items()})
        if unheld is None:
            unheld = tuple(unfit(model, seen))
            mark_reach(model, unheld)
    plan = QuantPlan(ops=tuple(_op_plan(op, op.name in chosen, entries, cache) for op in ops))
    of_op = {op.name: ranges[name_of(op.activation)] for op in ops if name_of(op.activation) in ranges}
    model = plain_convolutions(model)  # in which a tensor may have the name of one that was the same
    int8 = [op for op in weighted_ops(model) if op.name in chosen and op.name in of_op]
    insert_qdq(model, int8, {name_of(op.activation): of_op[op.name] for op in int8})
    finish(model, plan, origin or _unrecorded(model, cache), config)
    model.metadata_props[CACHE] = cache.text
    left = [entry for entry in cache.scales if entry not in set(used.values())]
    return model, Migration(
        header=cache.header,
        int8_ops=len(int8),
        weighted_ops=len(ops),
        used=used,
        missing=tuple(tensor for tensor in wanted if tensor not in entries),
        unusable=tuple(tensor for tensor in entries if tensor not in used),
        unneeded=tuple(entry for entry in left if entry in known),
        builtin=tuple(entry for entry in left if _is_builtin(entry, known)),
        unknown=_unknown(cache, known),
        unheld=unheld,
    )


def _names(model: ir.Model) -> set[str]:
    """Names of tensors; rule 1."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {name_of(value) for value in values if value.name}


def _called_as_in(cache: Cache, model: ir.Model) -> ir.Model:
    """``model``, in which tensors that have several names have the one that ``cache`` knows."""
    for value in (value for node in model.graph for value in node.outputs):
        known = [name for name in (name_of(value), *dropped_identities(value)) if name in cache.scales]
        if known and not value.is_graph_output():
            value.name = known[0]
    return model


def _entry_for(value: ir.Value, cache: Cache) -> str | None:
    """Rules 1 and 2."""
    source: ir.Value | None = value
    while source is not None:
        if name_of(source) in cache.scales:
            return name_of(source)
        node = source.producer()
        source = node.inputs[0] if node is not None and node.op_type in REARRANGING else None
    return None


def _require_match(cache: Cache, wanted: dict[str, ir.Value], entries: dict[str, str], known: set[str]) -> None:
    """Rule 4."""
    if 2 * len(entries) >= len(wanted):
        return
    strangers = _unknown(cache, known)
    example = f", e.g. {strangers[0]!r}" if strangers else ""
    lacking = next(tensor for tensor in wanted if tensor not in entries)
    raise CacheError(
        f"the cache is of another model: it has a scale for {len(entries)} of the {len(wanted)} tensors that the INT8 "
        f"ops of this one read (none for {lacking!r}, e.g.), and {len(strangers)} of its {len(cache.scales)} entries "
        f"name nothing in it{example}. Give the ONNX file that TensorRT calibrated. If only a part of the model is "
        "meant, name its nodes by --include."
    )


def _lacking(wanted: dict[str, ir.Value], used: dict[str, str]) -> str:
    lacking = [tensor for tensor in wanted if tensor not in used]
    return (
        f"the cache lacks a usable scale for {len(lacking)} of the {len(wanted)} tensors that INT8 ops read, e.g. "
        f"{', '.join(map(repr, lacking[:3]))}. Calibrate again, leave their ops out with --exclude, or go without "
        "--strict to keep them in float."
    )


def _op_plan(op: WeightedOp, chosen: bool, entries: dict[str, str], cache: Cache) -> OpPlan:
    """Its input is called by the entry (rule 2), which is the name that the way back needs."""
    tensor = name_of(op.activation)
    entry = entries.get(tensor)
    scale = cache.scales[entry] if entry is not None else None
    usable = scale is not None and is_usable(scale)
    if not chosen:
        reason = "left out by name"
    elif scale is None:
        reason = "the calibration cache has no scale for its input"
    else:
        reason = f"the calibration cache has the scale {scale:.4g} for its input"
    return OpPlan(
        node=op.name,
        kind=op.kind,
        input=entry or tensor,
        treatment="int8" if chosen and usable else "float",
        reason=reason,
        amax=scale * LEVELS if scale is not None and usable else None,
        sqnr_db=None,
    )


def _unrecorded(model: ir.Model, cache: Cache) -> Origin:
    """What little is known of a cache without a record."""
    return Origin(
        model_sha256=model.metadata_props.get(SOURCE_SHA256, ""),
        data_sha256="",
        settings={"cache": cache.header},
        tools={"calib8": version("calib8")},
    )


def _unknown(cache: Cache, known: set[str]) -> tuple[str, ...]:
    return tuple(entry for entry in cache.scales if entry not in known and not _is_builtin(entry, known))


def _is_builtin(entry: str, known: set[str]) -> bool:
    """TensorRT calls the output of a layer that it adds for ``x`` either by number or ``x_output``."""
    layer = entry.removesuffix("_output")
    return entry not in known and (entry.startswith(BUILTIN) or layer in known)
