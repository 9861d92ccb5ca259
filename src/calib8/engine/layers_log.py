"""The layers of an engine from the builder's verbose log, where there is no inspector: TensorRT-RTX without a GPU.

With ``ProfilingVerbosity.DETAILED`` the builder prints messages ``Layers:``, one kernel a line:
``Name: …, LayerType: gemm, Inputs: [ { Name: …, Dimensions: [8,64], Datatype: Int8, … }], Constants: […], Outputs: […],
TacticName: …, StreamId: 0, Metadata: [ONNX Layer: q]\\x1f[ONNX Layer: k]``. TensorRT 10 has no ``Constants`` and writes
``Format/Datatype``. Nothing is quoted and names may hold anything but a line end, so a mark counts only where all that
belongs behind it follows.
"""

import re
from collections.abc import Iterable

from calib8.engine.layers import Layer, Tensor, nodes_of

HEADER = "Layers:"
NAME = "Name: "
GROUPS = ("Inputs", "Constants", "Outputs")
_TYPE = re.compile(r", LayerType: ([^,]*), Inputs: \[")
_TENSOR = re.compile(
    r" ?\{ Name: .*?, Dimensions: \[((?:-?\d{1,18},)*(?:-?\d{1,18})?)\]((?:(?!, Dimensions: )[^{}])*)\}"
    r"(?=, \{ Name: | ?\](?:, |$))"
)
_DTYPE = re.compile(r"atatype: ([^,]*)")
_TACTIC = re.compile(r", TacticName: ([^,]*)")
_WEIGHTS = re.compile(r', Weights: \{"Type": "([^"]*)"')
_DYNAMIC = re.compile(r", HasDynamicFilter: 1\b")


def layers_from_log(messages: Iterable[str]) -> list[Layer]:
    """The layers of the last message that starts with ``Layers:`` and lists any; empty if none does."""
    lists = [message for message in messages if message.startswith(HEADER)]
    for text in reversed(lists):
        lines = text.split("\n")  # splitlines() would cut at \x1e
        if layers := [layer for line in lines if line.startswith(NAME) and (layer := _layer(line)) is not None]:
            return layers
    return []


def _layer(line: str) -> Layer | None:
    """Of all places where the name might end, the first behind which tensors follow as they should."""
    marks = list(_TYPE.finditer(line))
    if not marks:
        return None
    readings = ((mark, *read) for mark in marks if (read := _groups(line, mark.end())) is not None)
    mark, groups, end = next(readings, (marks[0], {}, marks[0].end()))  # tensors in another form tell nothing
    details, _, metadata = line[end:].partition(", Metadata: ")
    return Layer(
        name=line[len(NAME) : mark.start()],
        kind=mark[1],
        tactic=_first(_TACTIC, details),
        inputs=groups.get("Inputs", ()),
        constants=groups.get("Constants", ()),
        outputs=groups.get("Outputs", ()),
        weights=_first(_WEIGHTS, details),
        dynamic_filter=_DYNAMIC.search(details) is not None,
        nodes=nodes_of(metadata),
    )


def _groups(line: str, start: int) -> tuple[dict[str, tuple[Tensor, ...]], int] | None:
    """The lists of tensors, the first of which starts there, and where the last ends; None if they are none."""
    groups: dict[str, tuple[Tensor, ...]] = {}
    for group in GROUPS:
        opening = f", {group}: ["
        if group == "Inputs":
            end = start
        elif line.startswith(opening, start):
            end = start + len(opening)
        else:
            continue
        tensors = []
        while found := _TENSOR.match(line, end):
            tensors.append(Tensor(tuple(int(size) for size in found[1].split(",") if size), _first(_DTYPE, found[2])))
            end = found.end() + line.startswith(",", found.end())
        end += line.startswith(" ", end)
        if not line.startswith("]", end):
            return None
        groups[group], start = tuple(tensors), end + 1
    return (groups, start) if "Outputs" in groups else None


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip() if found else ""
