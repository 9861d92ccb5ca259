"""The layers of an engine from ``EngineInspector``'s JSON (TensorRT 10 and 11), built with detailed verbosity."""

import json
from typing import Any

from calib8.engine.layers import Layer, Tensor, nodes_of


def layers_from_json(text: str) -> list[Layer]:
    """Every layer that ``get_engine_information`` tells of; empty if the text is no JSON, or has names only."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return []
    items = told.get("Layers") if isinstance(told, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return []  # built without details, the list holds names
    return [_layer(item) for item in items]


def _layer(item: dict[str, Any]) -> Layer:
    weights = item.get("Weights")
    return Layer(
        name=str(item.get("Name", "")),
        kind=str(item.get("LayerType", "")),
        tactic=str(item.get("TacticName", "")),
        inputs=_tensors(item.get("Inputs")),
        constants=_tensors(item.get("Constants")),
        outputs=_tensors(item.get("Outputs")),
        weights=str(weights.get("Type", "")) if isinstance(weights, dict) else "",
        dynamic_filter=item.get("HasDynamicFilter") == 1,
        nodes=nodes_of(str(item.get("Metadata", ""))),
    )


def _tensors(items: Any) -> tuple[Tensor, ...]:
    known = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return tuple(Tensor(_dims(item.get("Dimensions")), _dtype(item)) for item in known)


def _dims(sizes: Any) -> tuple[int, ...]:
    return tuple(size for size in sizes if isinstance(size, int)) if isinstance(sizes, list) else ()


def _dtype(item: dict[str, Any]) -> str:
    return str(item.get("Format/Datatype") or item.get("Datatype") or "")
