"""Makes lists of the docstring lines ``name: what it is``, which Markdown would run together. A griffe extension.

It leaves out of types, too, what is for the command line in them.
"""

import re
from typing import Any

from griffe import Attribute, ExprSubscript, ExprTuple, Extension, Object

_FIELD = re.compile(r"^(\w+(?:, \w+)*): (.*(?:\n(?: {2,}).*)*)", re.MULTILINE)


class Fields(Extension):
    """For every docstring that is shown."""

    def on_attribute(self, *, attr: Attribute, **_: Any) -> None:
        """``Annotated[float, Option("--min-sqnr")]`` is ``float`` to a reader."""
        written = attr.annotation
        if isinstance(written, ExprSubscript) and str(written.left) == "Annotated":
            assert isinstance(written.slice, ExprTuple)
            attr.annotation = written.slice.elements[0]

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite ``obj``'s docstring in place."""
        if obj.docstring is not None:
            obj.docstring.value = _FIELD.sub(_item, obj.docstring.value)


def _item(field: re.Match[str]) -> str:
    names = ", ".join(f"`{name}`" for name in field[1].split(", "))
    return f"\n- {names}: " + re.sub(r"\n +", " ", field[2])
