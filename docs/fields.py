"""Makes lists of the docstring lines ``name: what it is``, which Markdown would run together. A griffe extension."""

import re
from typing import Any

from griffe import Extension, Object

_FIELD = re.compile(r"^(\w+(?:, \w+)*): (.*(?:\n(?: {2,}).*)*)", re.MULTILINE)


class Fields(Extension):
    """For every docstring that is shown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite ``obj``'s docstring in place."""
        if obj.docstring is not None:
            obj.docstring.value = _FIELD.sub(_item, obj.docstring.value)


def _item(field: re.Match[str]) -> str:
    names = ", ".join(f"`{name}`" for name in field[1].split(", "))
    return f"\n- {names}: " + re.sub(r"\n +", " ", field[2])
