"""The snippets of docs/integrations.md, as they stand there, on a tiny model in the place of MPNet."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import calib8
from calib8.testing import tiny_encoder

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 5


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_snippet_runs(snippet: str, tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "build").mkdir()
    calib8.save(tiny_encoder(), tokenizer_folder.rename(tmp_path / "build" / "mpnet") / "model.int8.onnx")
    found = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
