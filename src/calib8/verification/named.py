"""What options say of outputs, ``NAME=KIND`` and ``NAME=NUMBER``: read here, without anything heavy."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

KindName: TypeAlias = Literal["vectors", "classes", "number", "boxes", "maps", "ids", "sequences"]
#: The least mean score that ``convert`` asks of each kind.
USUAL: dict[KindName, float] = {
    "vectors": 0.975,
    "classes": 0.95,
    "number": 0.975,
    "boxes": 0.95,
    "maps": 0.99,
    "ids": 0.95,
    "sequences": 0.95,
}
#: What people call a kind by what is measured of it.
ALSO: dict[str, KindName] = {"cosine": "vectors"}


class OutputKind(BaseModel):
    """What the output ``name`` is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: KindName

    def __str__(self) -> str:
        return f"{self.name}={self.kind}"


class Least(BaseModel):
    """The least mean score of the outputs that ``name`` means: a kind (``cosine`` for vectors), or one of its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    least: float = Field(ge=-1, le=1, allow_inf_nan=False)

    def __str__(self) -> str:
        return f"{self.name}={self.least:g}"

    def means(self, output: str, kind: str) -> bool:
        """Whether ``output``, of that kind, is meant."""
        return self.name == output or ALSO.get(self.name, self.name) == kind


def output_kinds(value: Any) -> tuple[Any, ...]:
    """For validators: texts ``NAME=KIND``, or a mapping, as ``OutputKind``s."""
    kinds = ", ".join(get_args(KindName))
    found = []
    for item in _items(value, "=KIND"):
        if isinstance(item, str):
            name, _, kind = item.rpartition("=")
            if not name or kind not in get_args(KindName):
                raise ValueError(f"expected NAME=KIND with the name of an output and one of {kinds}")
            item = OutputKind(name=name, kind=kind)  # noqa: PLW2901
        found.append(item)
    return tuple(found)


def leasts(value: Any) -> tuple[Any, ...]:
    """For validators: texts ``NAME=NUMBER``, or a mapping, as ``Least``s."""
    return tuple(least_of(item) for item in _items(value, "=NUMBER"))


def least_of(value: Any, *, above: float = -math.inf) -> Any:
    """For validators: the text ``NAME=NUMBER``, or a number, which is one of cosine, as a ``Least``.

    ``above``: that it has to be more than, and less than 1.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"cosine={value}"
    if not isinstance(value, str):
        return value
    name, _, number = value.rpartition("=")
    try:
        found = Least(name=name, least=float(number))
        if name and (above == -math.inf or above < found.least < 1):
            return found
    except ValueError:
        pass
    low = "-1 to 1" if above == -math.inf else f"between {above:g} and 1"
    raise ValueError(f"expected NAME=<number {low}>, e.g. cosine=0.999, boxes=0.98, or the name of an output")


def _items(value: Any, form: str) -> Iterable[Any]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [f"{name}={told}" for name, told in value.items()]
    try:
        return list(value)
    except TypeError:
        raise ValueError(f"expected texts such as NAME{form}, or a mapping") from None
