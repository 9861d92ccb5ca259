"""What a file contains, for people: a model, an engine, a calibration cache, a ranges, plan or report file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from calib8.calibration.cache import read_cache
from calib8.calibration.ranges import Ranges
from calib8.data.inputs import input_specs
from calib8.engine.sidecar import describe_engine, why_not_here
from calib8.errors import InputError, ModelError
from calib8.files import read_json, require_file
from calib8.graph.io import load
from calib8.graph.limits import dimension_limits
from calib8.graph.weighted import weighted_ops
from calib8.passes.prepare import prepare
from calib8.runtime.open import is_engine

#: Widest tensors listed of a cache or ranges file.
SHOWN = 10


def describe(path: Path) -> dict[str, Any]:
    """Facts about the file, by heading; values are plain JSON. Raises ``InputError`` for a file of no known kind."""
    require_file(path, "file")
    if path.suffix == ".onnx":
        return _model(path)
    if is_engine(path):
        return _engine(path)
    if path.suffix == ".cache":
        return _cache(path)
    if path.suffix == ".json":
        return _json(path)
    raise InputError(
        f"{path}: unknown kind of file {path.suffix!r}; expected .onnx, .engine, .cache or calib8's own .json."
    )


def _model(path: Path) -> dict[str, Any]:
    model = load(path)
    described: dict[str, Any] = {"kind": "ONNX model", "bytes": path.stat().st_size}
    described["opset"] = model.opset_imports.get("", 0)
    described["inputs"] = {v.name: f"{v.dtype} {v.shape}" for v in model.graph.inputs if not v.is_initializer()}
    described["outputs"] = {v.name: f"{v.dtype} {v.shape}" for v in model.graph.outputs}
    counts = Counter(node.op_type for node in model.graph)
    described["quantised"] = f"{counts['QuantizeLinear']} Q, {counts['DequantizeLinear']} DQ"
    weights: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            weights[str(value.const_value.dtype)] += value.const_value.nbytes
    described["weights"] = {dtype: f"{size / 1e6:.1f} MB" for dtype, size in weights.most_common()}
    described["weighted ops in float"] = len(weighted_ops(prepare(model.clone())))
    try:
        described["feeds"] = [spec.name for spec in input_specs(model)]
        described["limits"] = dimension_limits(model)
    except ModelError as error:
        described["note"] = str(error)
    described["operators"] = dict(counts.most_common())
    made = {key: _decoded(value) for key, value in model.metadata_props.items() if key.startswith("calib8.")}
    if plan := made.pop("calib8.plan", None):
        described["plan"] = Counter(op["treatment"] for op in plan["ops"])
    return described | made


def _engine(path: Path) -> dict[str, Any]:
    sidecar = describe_engine(path)
    reason = why_not_here(sidecar)
    runs = {"runs here": "yes" if reason is None else f"no: {reason}"}
    content = sidecar.model_dump(mode="json")
    content["model_metadata"] = {
        key: value for key, value in sidecar.model_metadata.items() if len(value) < 200
    }  # the plan is long; the ONNX model has it
    return {"kind": f"engine by {sidecar.builder}"} | runs | content


def _cache(path: Path) -> dict[str, Any]:
    entries = read_cache(path)
    header = path.read_text(encoding="utf-8").splitlines()[0]
    return {
        "kind": "TensorRT calibration cache",
        "header": header,
        "tensors": len(entries),
        "widest amax": _widest(entries),
    }


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path, "JSON file")
    known = str(content.get("format", "")) if isinstance(content, dict) else ""
    if known == "calib8.ranges/1":
        ranges = Ranges.load(path)
        facts = {"samples": ranges.samples, "positions": ranges.positions, "tensors": len(ranges.tensors)}
        lowest = sorted(ranges.tensors.items(), key=lambda item: item[1].typical_sqnr_db)[:SHOWN]
        return {
            "kind": "ranges",
            **facts,
            "origin": ranges.origin.model_dump(),
            "widest amax": _widest(ranges.amax()),
            "lowest typical SQNR (dB)": {name: round(tensor.typical_sqnr_db, 1) for name, tensor in lowest},
        }
    if known == "calib8.plan/1":
        ops = {op["node"]: f"{op['treatment']}: {op['reason']}" for op in content["ops"]}
        return {"kind": "quantisation plan", "ops": ops}
    if known.startswith("calib8."):
        return {"kind": known, **content}
    raise InputError(
        f"{path} is no file that calib8 made: it has no known 'format'. Expected ranges, a plan or a report."
    )


def _widest(amax: dict[str, float]) -> dict[str, float]:
    return {name: round(amax[name], 4) for name in sorted(amax, key=lambda name: -amax[name])[:SHOWN]}


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
