"""Numbers that take long to find, kept in a file: a search that was killed asks for the same ones, and finds them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from calib8.errors import InputError
from calib8.files import read_json, write_text

_MEASUREMENTS = TypeAdapter(dict[str, list[FiniteFloat]])


class Known:
    """What was asked -> the numbers found, in the file ``path``; in memory only if None. They come back to the bit."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._found = path, dict[str, list[float]]()
        if path is not None and path.is_file():
            try:
                self._found = _MEASUREMENTS.validate_python(read_json(path, "file of measurements"), strict=True)
            except (InputError, ValidationError):  # damaged by a loss of power: measure again
                path.unlink()

    def __len__(self) -> int:
        return len(self._found)

    def numbers(self, asked: Any, find: Callable[[], Iterable[float]]) -> list[float]:
        """The numbers of what was ``asked``, of JSON's types: those that are known, else what ``find`` finds."""
        key = json.dumps(asked)
        if key not in self._found:
            self._found[key] = [float(number) for number in find()]
            if self._path is not None:
                write_text(self._path, json.dumps(self._found))
        return self._found[key]
