"""A recording double of the module ``tensorrt``, made from NVIDIA's own Python bindings of that version.

It has the classes, methods, properties and enumerations of the bindings (``trt_bindings``) and nothing else: an unknown
name, a wrong number of arguments, an unknown keyword, an argument of another type or an assignment to a read-only
attribute raises what pybind11 would raise. What calls do is given by ``behaviour``; the rest answers its annotated
type's simplest value.
"""

import ast
import functools
import inspect
import json
import re
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trt_bindings import stubs_of

#: The bindings that doubles are made from.
VERSIONS = ("10.16", "11.4")
needs_bindings = pytest.mark.skipif(
    not all(stubs_of(version).is_file() for version in VERSIONS),
    reason=f"needs NVIDIA's bindings of TensorRT {' and '.join(VERSIONS)} for this Python: make .venv/bindings/ready",
)
PLAIN = {"int": int, "bool": bool, "str": str, "float": float}


class Recorder:
    """Every call and assignment: ``("IBuilderConfig.set_flag", "BuilderFlag.INT8")``."""

    def __init__(self, file: Path | None = None) -> None:
        self.calls: list[list[Any]] = []
        self.file = file

    def add(self, name: str, *arguments: Any) -> None:
        self.calls.append([name, *map(_shown, arguments)])
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as stream:
                print(json.dumps(self.calls[-1]), file=stream)


def double(
    version: str = "10.16.1.11", behaviour: dict[str, Any] | None = None, file: Path | None = None
) -> SimpleNamespace:
    """A module ``tensorrt`` of this version. ``behaviour``: ``Class.method`` -> function of (self, *arguments)."""
    recorder, behaviour = Recorder(file), {} if behaviour is None else behaviour
    module = SimpleNamespace(__version__=version, recorder=recorder)
    made: dict[str, Any] = {}
    text, tree = _stubs(".".join(version.split(".")[:2]))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            made[node.name] = _class(node, text, made, recorder, behaviour)
            setattr(module, node.name, made[node.name])
    return module


@functools.cache
def _stubs(version: str) -> tuple[str, ast.Module]:
    text = stubs_of(version).read_text(encoding="utf-8")
    return text, ast.parse(text)


def _class(node: ast.ClassDef, text: str, made: dict[str, Any], recorder: Recorder, behaviour: dict[str, Any]) -> Any:
    source = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    members = re.findall(rf"^ +(\w+): ClassVar\[(?:\w+\.)?{node.name}\] = \.\.\.  # (\d+)", source, re.M)
    if members:
        return IntEnum(node.name, {name: int(value) for name, value in members})
    body: dict[str, Any] = {"initialised": False} if any(_is_init(item) for item in node.body) else {}
    writable: set[str] = set()
    methods: dict[str, list[ast.FunctionDef]] = {}
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            body[item.name] = _class(item, text, made, recorder, behaviour)
        elif isinstance(item, ast.AnnAssign):
            writable.add(item.target.id)
        elif isinstance(item, ast.FunctionDef):
            if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in item.decorator_list):
                body[item.name] = _property(node.name, item, made, behaviour)
            elif not item.name.startswith("__") or _is_init(item):
                methods.setdefault(item.name, []).append(item)
    for name, overloads in methods.items():
        body[name] = _method(node.name, name, overloads, made, recorder, behaviour)
    body["__setattr__"] = _setter(node.name, writable, recorder)
    bases = tuple(made[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in made)
    return type(node.name, bases or ((bytes,) if node.name == "IHostMemory" else (object,)), body)


def _property(owner: str, item: ast.FunctionDef, made: dict[str, Any], behaviour: dict[str, Any]) -> property:
    def get(self: Any) -> Any:
        chosen = behaviour.get(f"{owner}.{item.name}")
        return chosen(self) if chosen else _simplest(item.returns, made)

    return property(get)


def _method(
    owner: str,
    name: str,
    overloads: list[ast.FunctionDef],
    made: dict[str, Any],
    recorder: Recorder,
    behaviour: dict[str, Any],
) -> Any:
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        refusals = []
        for overload in overloads:
            try:
                bound = _signature(overload).bind(self, *arguments, **keywords)
                _check_types(overload, bound, made)
            except TypeError as error:
                refusals.append(str(error))
                continue
            given = list(bound.arguments.values())[1:]
            recorder.add(f"{owner}.{name}" if name != "__init__" else owner, *given)
            if name == "__init__":
                object.__setattr__(self, "initialised", True)
            chosen = behaviour.get(f"{owner}.{name}")
            return chosen(self, *given) if chosen else _simplest(overload.returns, made)
        raise TypeError(f"{owner}.{name}(): incompatible function arguments: {'; '.join(refusals)}")

    return call


def _setter(owner: str, writable: set[str], recorder: Recorder) -> Any:
    def assign(self: Any, name: str, value: Any) -> None:
        if type(self).__name__ == owner:  # a Python subclass may have attributes of its own
            if name not in writable:
                raise AttributeError(f"{owner} has no attribute {name!r} that can be set")
            recorder.add(f"{owner}.{name}=", value)
        object.__setattr__(self, name, value)

    return assign


def _signature(item: ast.FunctionDef) -> inspect.Signature:
    names = [argument.arg for argument in item.args.args]
    first_default = len(names) - len(item.args.defaults)
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if place < first_default else None,
            )
            for place, name in enumerate(names)
        ]
    )


def _check_types(item: ast.FunctionDef, bound: inspect.BoundArguments, made: dict[str, Any]) -> None:
    for argument in item.args.args[1:]:
        if argument.arg not in bound.arguments or not isinstance(argument.annotation, ast.Name):
            continue
        wanted, value = (
            made.get(argument.annotation.id, PLAIN.get(argument.annotation.id)),
            bound.arguments[argument.arg],
        )
        if wanted is not None and not isinstance(value, wanted):
            raise TypeError(f"{argument.arg}: got {type(value).__name__}, expected {argument.annotation.id}")
        if getattr(value, "initialised", True) is False:
            raise TypeError(f"{type(value).__name__}.__init__() must be called when overriding __init__")


def _simplest(annotation: ast.expr | None, made: dict[str, Any]) -> Any:
    if isinstance(annotation, ast.Name):
        if annotation.id in PLAIN:
            return True if annotation.id == "bool" else PLAIN[annotation.id]()
        if annotation.id in made and not issubclass(made[annotation.id], IntEnum):
            return made[annotation.id].__new__(made[annotation.id])
    return None


def _shown(value: Any) -> Any:
    if isinstance(value, IntEnum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, (int, str, float, list, tuple, type(None))):
        return value
    return type(value).__name__


def _is_init(item: ast.stmt) -> bool:
    """A constructor: what has none is given one of any arguments by ``stubgen``."""
    return isinstance(item, ast.FunctionDef) and item.name == "__init__" and item.args.vararg is None
