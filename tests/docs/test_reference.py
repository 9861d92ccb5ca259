"""Pages that speak of the source agree with it: error messages, public names."""

import ast
import re
from functools import cache

import pytest
from snippets import ROOT

import calib8

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
