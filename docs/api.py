"""What docs/api.md says: every public name with its signature and the first sentence of its docstring.

The page is what signatures are compared with, too: a change of any shows in it, and `docs/check.py` asks for it.
"""

import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

import calib8
from calib8.config import Config
from calib8.data.inputs import Arrays
from calib8.data.sources import Data

REFERENCE = Path(__file__).resolve().parent / "reference.md"
WIDTH = 100
#: Stand for blanks while lines are broken: where none may be, and before a parameter, where one may.
UNBROKEN, PARAMETER = "\xa0", "\n"
INTRODUCTION = """# Public names

Written by `make help-pages` from the source. [Python](reference.md) tells all of each name.
"""


def api_page() -> str:
    """The names in the order and under the headings of docs/reference.md."""
    parts = [INTRODUCTION]
    for heading, names in groups().items():
        entries = "\n".join(line for name in names for line in entry(name))
        parts.append(f"## {heading}\n\n```text\n{entries}\n```\n")
    return "\n".join(parts)


def groups() -> dict[str, list[str]]:
    """Heading of docs/reference.md -> the public names below it."""
    sections = re.split(r"^## (.+)$", REFERENCE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {
        heading: re.findall(r"^::: calib8\.(\w+)$", text, re.M)
        for heading, text in zip(sections[::2], sections[1::2], strict=True)
    }


def entry(name: str) -> Iterator[str]:
    """The lines of one name: its signature, and what it is."""
    value = getattr(calib8, name)
    whole = f"{name}{signature(value)}".replace(" ", UNBROKEN).replace(f",{PARAMETER}", ", ")
    lines = textwrap.wrap(whole, WIDTH, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False)
    yield from (line.replace(UNBROKEN, " ") for line in lines)
    yield from textwrap.wrap(first_sentence(value), WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)


def first_sentence(value: object) -> str:
    """Of a docstring: all of its first sentence, on one line."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    found = re.match(r".+?\.(?= |$)", text)
    return found[0] if found else text


def signature(value: Any) -> str:
    """``(model: Path | str, config: Int8 | None = None) -> QuantPlan``, with ``PARAMETER`` between two of them.

    Types have the names that people know them by.
    """
    try:
        found = inspect.signature(value, eval_str=True)
    except ValueError:
        return "(message)"  # an exception that has nothing of its own
    written: list[str] = []
    for parameter in found.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not any(one.startswith("*") for one in written):
            written.append("*")
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is inspect.Parameter.empty else f" = {_default(parameter.default)}"
        written.append(f"{stars}{parameter.name}: {_type(parameter.annotation)}{default}")
    returned = "" if isinstance(value, type) else f" -> {_type(found.return_annotation)}"
    return f"({f',{PARAMETER}'.join(written)}){returned}"


def _default(value: object) -> str:
    """A config by what is chosen in it other than by default, anything else as Python writes it."""
    if not isinstance(value, Config):
        return repr(value)
    return f"{type(value).__name__}({', '.join(f'{name}={chosen!r}' for name, chosen in value.asked().items())})"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation == Arrays:
        return "Arrays"
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is np.ndarray:
        return f"NDArray[{_type(get_args(arguments[1])[0])}]"
    if origin is not None:
        return f"{_name(origin)}[{', '.join(map(repr if origin is Literal else _type, arguments))}]"
    return _name(annotation)


def _name(one: Any) -> str:
    if isinstance(one, str) or one in (None, type(None), Ellipsis):
        return {type(None): "None", Ellipsis: "..."}.get(one, str(one))
    return f"onnx_ir.{one.__name__}" if one.__module__.startswith("onnx_ir") else str(one.__name__)


def _union(members: tuple[Any, ...]) -> str:
    data = get_args(Data)
    if set(data) <= set(members):
        return " | ".join(["Data", *(_type(member) for member in members if member not in data)])
    return " | ".join(map(_type, members))
