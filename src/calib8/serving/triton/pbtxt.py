"""``config.pbtxt``: messages in protobuf's text format.

Written here, since Triton's definitions are no part of any package that calib8 needs. Tests read every file with them.
Format: protobuf.dev/reference/protobuf/textformat-spec.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

#: Field -> number, text, ``Enum``, message, or a list of such for a repeated field.
Message: TypeAlias = Mapping[str, Any]


class Enum(str):
    """A value that is written without quotes."""


def render(message: Message, indent: int = 0) -> str:
    """``message`` as text, one field per line; numbers of a repeated field share one."""
    margin = " " * indent
    lines = []
    for name, value in message.items():
        if isinstance(value, list) and not any(isinstance(one, Mapping) for one in value):
            lines.append(f"{margin}{name}: [ {', '.join(map(_scalar, value))} ]" if value else f"{margin}{name}: [ ]")
            continue
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, Mapping):
                lines.append(f"{margin}{name}: {_scalar(one)}")
            elif one:
                lines.append(f"{margin}{name} {{\n{render(one, indent + 2)}{margin}}}")
            else:
                lines.append(f"{margin}{name} {{ }}")
    return "".join(f"{line}\n" for line in lines)


def parameters(values: Mapping[str, object]) -> list[Message]:
    """A model's ``parameters``: Triton knows texts only."""
    return [{"key": key, "value": {"string_value": str(value)}} for key, value in values.items()]


def _scalar(value: object) -> str:
    if isinstance(value, Enum) or not isinstance(value, str):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
