"""What a file contains, for people: a model, an engine, arrays, a calibration cache, or one of calib8's JSON files."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from calib8.caches.cache import Cache
from calib8.caches.record import read_record
from calib8.calibration.ranges import Ranges
from calib8.config import first_problem
from calib8.data.array_files import read_npy
from calib8.data.sources import NpzFile
from calib8.engine.profiles import profile_sets
from calib8.engine.sidecar import Sidecar, describe_engine, lacking_here, read_sidecar, runs_on
from calib8.errors import InputError, ModelError
from calib8.files import parse_json, read_json, reading, require_file, require_reachable
from calib8.graph.codes import precision_of
from calib8.graph.inputs import declared_inputs
from calib8.graph.io import SOURCE_SHA256, load, stored_bytes
from calib8.graph.limits import dimension_limits
from calib8.graph.mapped import data_files
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.provenance import PLAN
from calib8.quantization.migrate import CACHE
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.sensitivity import Sensitivity
from calib8.report.wording import size_of
from calib8.runtime.open import ENGINE_SUFFIXES, is_engine
from calib8.zoo.fetch import RECORD

_Content = TypeVar("_Content", bound=BaseModel)

#: Widest tensors listed of a cache or ranges file.
SHOWN = 10
#: Suffixes of files that can be described.
KINDS = (*ENGINE_SUFFIXES, ".onnx", ".cache", ".json", ".npy", ".npz")


def inspect(path: Path | str) -> dict[str, Any]:
    """Facts about the file, by heading; values are plain JSON. Raises ``InputError`` for a file of no known kind.

    Example:

        >>> calib8.inspect("ranges.json")["samples"]
        64
    """
    path = Path(path)
    require_reachable(path)
    if path.is_dir():
        names = ", ".join(sorted(found.name for found in path.iterdir() if found.suffix in KINDS)[:SHOWN])
        raise InputError(f"{path} is a folder, expected one file" + (f" in it: {names}." if names else "."))
    require_file(path, "file")
    if is_engine(path):
        return _engine(describe_engine(path))
    with reading(path), path.open("rb") as stream:
        if stream.read(4) == b"TRT-":  # TensorRT's users give the file any name
            return _cache(path)
    readers = {".onnx": _model, ".cache": _cache, ".json": _json, ".npy": _arrays, ".npz": _arrays}
    if path.suffix in readers:
        return readers[path.suffix](path)
    kind = f"unknown kind of file {path.suffix!r}" if path.suffix else "a name without a suffix does not tell its kind"
    raise InputError(
        f"{path}: {kind}; expected .engine or {', '.join(readers)}, or a calibration "
        "cache of any name, which begins with 'TRT-'."
    )


def _model(path: Path) -> dict[str, Any]:
    model = load(path)
    data = data_files(model)
    whole = "SHA-256 of this file with those of its weights" if data else "SHA-256 of this file"
    described: dict[str, Any] = {"kind": "ONNX model", "bytes": stored_bytes(path)}
    described[whole] = model.metadata_props[SOURCE_SHA256]
    described["opset"] = model.opset_imports.get("", 0)
    described["inputs"] = {v.name: f"{v.dtype} {v.shape}" for v in model.graph.inputs if not v.is_initializer()}
    described["outputs"] = {v.name: f"{v.dtype} {v.shape}" for v in model.graph.outputs}
    counts = Counter(node.op_type for node in model.graph)
    pairs = f"{counts['QuantizeLinear']} Q, {counts['DequantizeLinear']} DQ"
    described["quantised"] = f"{pairs}, {precision_of(model).upper()}" if counts["DequantizeLinear"] else pairs
    weights: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            weights[str(value.const_value.dtype)] += value.const_value.nbytes
    described["weights"] = {dtype: size_of(size) for dtype, size in weights.most_common()}
    described["weighted ops in float"] = len(weighted_ops(prepare(model.clone())))
    try:
        described["feeds"] = [spec.name for spec in declared_inputs(model)]
        described["limits"] = dimension_limits(model)
    except ModelError as error:
        described["note"] = str(error)
    described["operators"] = dict(counts.most_common())
    made = _made_by(model.metadata_props, str(path))
    if plan := made.pop(PLAN, None):
        described["plan"] = Counter(op.treatment for op in _validated(QuantPlan, plan, path).ops)
    return described | made


def _made_by(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """What calib8 wrote into a model, with the first line of a cache in its place; its hash is told elsewhere."""
    own = {key: value for key, value in metadata.items() if key.startswith("calib8.") and key != SOURCE_SHA256}
    made = {key: _decoded(value) for key, value in own.items()}
    if cache := made.pop(CACHE, None):
        return {"migrated from": Cache.parse(str(cache), f"the cache in {where}").header} | made
    return made


def _engine(sidecar: Sidecar) -> dict[str, Any]:
    reason = lacking_here(sidecar)
    runs = {"runs on": runs_on(sidecar), "runs here": "yes" if reason is None else f"no: {reason}"}
    content = sidecar.model_dump(mode="json", exclude_none=True, exclude={"format"})
    made = {key: value for key, value in sidecar.model_metadata.items() if key != PLAN}  # long; the ONNX model has it
    content["model_metadata"] = _made_by(made, "the engine's description")
    content["profiles"] = {
        str(number): {name: str(profile).removeprefix(f"{name}:") for name, profile in profiles.items()}
        for number, profiles in enumerate(profile_sets(sidecar.profiles), start=1)
    }
    content["tensors"] = {t.name: f"{t.mode} {t.dtype} {list(t.shape)}" for t in sidecar.tensors}
    plan = {key: value for key, value in content["plan"].items() if value not in ([], {})}
    content["plan"] = plan | ({"divided": len(plan["divided"])} if "divided" in plan else {})  # names by the dozen
    return {"kind": f"engine by {sidecar.builder}"} | runs | content


def _cache(path: Path) -> dict[str, Any]:
    cache, record = Cache.load(path), read_record(path)
    amax = cache.amax()
    return {
        "kind": "TensorRT calibration cache",
        "header": cache.header,
        "tensors": len(cache.scales),
        "without a usable scale": len(cache.scales) - len(amax),
        "made from": record.origin.model_dump() if record is not None else "unknown: nothing beside it tells",
        "widest amax": _widest(amax),
    }


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        (chunk,) = NpzFile(path).chunks()
        arrays = {name: f"{array.dtype} {list(array.shape)}" for name, array in chunk.items()}
        return {"kind": "NumPy arrays", "arrays": arrays}
    array = read_npy(path)
    return {"kind": "NumPy array", "dtype": str(array.dtype), "shape": list(array.shape)}


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path, "JSON file")
    if isinstance(content, dict) and "engine_sha256" in content:
        return _engine(read_sidecar(path))
    known = str(content.get("format", "")) if isinstance(content, dict) else ""
    if known == "calib8.ranges/1":
        ranges = Ranges.load(path)
        facts = {"samples": ranges.samples, "positions": ranges.positions, "tensors": len(ranges.tensors)}
        lowest = sorted(ranges.tensors.items(), key=lambda item: item[1].typical_sqnr_db())[:SHOWN]
        return {
            "kind": "ranges",
            **facts,
            "origin": ranges.origin.model_dump(),
            "widest amax": _widest(ranges.amax()),
            "lowest typical SQNR (dB)": {name: round(tensor.typical_sqnr_db(), 1) for name, tensor in lowest},
        }
    if known == "calib8.plan/1":
        plan = _validated(QuantPlan, content, path)
        ops = {op.node: f"{op.treatment}: {op.reason}" for op in plan.ops}
        return {"kind": "quantisation plan", "ops": ops}
    if known == "calib8.sensitivity/1":
        found = _validated(Sensitivity, content, path)
        told = found.precision.upper()
        costs = {op.node: f"{op.alone:.5f} alone in {told}, {op.spared:.5f} alone in float" for op in found.ops}
        cosines = {"all in float": round(found.all_float, 5), f"all in {told}": round(found.all_int8, 5)}
        return {"kind": "sensitivity", "samples": found.samples, "mean cosine to FP32": {**cosines, **costs}}
    if path.name == RECORD and isinstance(content, dict):
        return {"kind": "fetched model", **content}
    if known.startswith("calib8."):
        return {"kind": known, **_condensed(content)}
    raise InputError(
        f"{path} is no file that calib8 made: it has no known 'format'. Expected ranges, a plan, a report, an engine's "
        "description, or what `calib8 prepare` or `fetch` wrote."
    )


def _condensed(content: dict[str, Any]) -> dict[str, Any]:
    """A timeline's samples as their number, a comparison without its details: the summary beside them is for people."""
    if isinstance(content.get("samples"), list):
        return {**content, "samples": len(content["samples"])}
    shown = {key: value for key, value in content.items() if key != "details"}  # by the hundred: they have a page
    return {key: _condensed(value) if isinstance(value, dict) else value for key, value in shown.items()}


def _validated(kind: type[_Content], content: Any, path: Path) -> _Content:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is damaged or of another calib8: {first_problem(error)}. Make it again.") from error


def _widest(amax: dict[str, float]) -> dict[str, float]:
    return {name: round(amax[name], 4) for name in sorted(amax, key=lambda name: -amax[name])[:SHOWN]}


def _decoded(value: str) -> Any:
    try:
        return parse_json(value)
    except ValueError:
        return value
