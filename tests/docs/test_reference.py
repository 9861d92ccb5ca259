"""Pages that speak of the source agree with it: error messages, public names."""

import ast
import re
import sys
from functools import cache
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from snippets import ROOT

import calib8
from calib8.data.inputs import Arrays
from calib8.data.sources import Data

sys.path.insert(0, str(ROOT / "docs"))
import api

TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.+)$", TROUBLES, re.MULTILINE)
#: Stands for what an f-string fills in.
FILLED = "\0"


@cache
def texts_of_the_source() -> list[str]:
    """Every string of src/, with ``FILLED`` where an f-string has an expression."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def is_a_message(quoted: str) -> bool:
    """Whether the source holds this message: the words between each ``…``, in order, in one string."""
    pattern = ".*".join(re.escape(words.strip()) for words in quoted.split("…"))
    return any(re.search(pattern, text, re.DOTALL) for text in texts_of_the_source())


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_heading_is_a_message_of_the_source(heading: str) -> None:
    quoted = heading.strip("`")
    assert heading == f"`{quoted}`"
    assert len(quoted.replace("…", "")) >= 12  # shorter ones are found anywhere
    assert is_a_message(quoted)


def test_an_invented_message_is_found_out() -> None:
    assert not is_a_message("the model has no MatMul, Gemm or Conv that pleases us")
    assert not is_a_message("expected a dynamic batch … has the fixed shape")


def test_every_kind_of_error_is_spoken_of() -> None:
    """Messages of models, data, caches, accuracy, engines and this machine; each heading once."""
    assert len(set(HEADINGS)) == len(HEADINGS) > 30


def test_the_reference_has_every_public_name_once() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: calib8\.(\w+)$", page, re.MULTILINE)) == sorted(calib8.__all__)


def test_the_page_of_public_names_is_what_the_source_says() -> None:
    """Every name, its signature and its first sentence; a change of any is a change of the page."""
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == api.api_page()
    listed = [name for names in api.groups().values() for name in names]
    assert sorted(listed) == sorted(calib8.__all__)
    assert re.findall(r"^(\w+)\(", api.api_page(), re.MULTILINE) == listed


@pytest.mark.parametrize("name", calib8.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    value = getattr(calib8, name)
    assert value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
    first = api.first_sentence(value)
    assert re.fullmatch(r"\S.{12,}[.]", first), first


CONFIG = calib8.Int8()


def of_a_kind(
    model: "str", data: Data, arrays: Arrays, vectors: NDArray[np.float32], config: calib8.Int8 = CONFIG,
    *many: int, limit: Annotated[float | None, "unseen"] = None, **options: Literal["a", "b"],
) -> tuple[ir.Model, ...]: ...  # fmt: skip


def test_a_signature_is_written_as_people_know_its_types() -> None:
    assert api.signature(of_a_kind).replace(api.PARAMETER, " ") == (
        "(model: str, data: Data, arrays: Arrays, vectors: NDArray[float32], config: Int8 = Int8(), "
        "*many: int, limit: float | None = None, **options: Literal['a', 'b']) -> tuple[onnx_ir.Model, ...]"
    )
    assert api.signature(calib8.ModelError) == "(message)"
    assert "verify: Verify = Verify(standard=True)" in api.signature(calib8.Convert)
