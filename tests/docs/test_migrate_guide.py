"""What the commands of docs/migrate.md leave, beyond that they run (test_snippets.py)."""

from pathlib import Path

import pytest
from runner import PageRun, inside
from sandbox import cnn, fetched
from snippets import ROOT, snippets_of

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


def test_the_way_there_and_back_keeps_every_byte(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    cnn(tmp_path / "made")
    cache = (tmp_path / "made" / "calibration.cache").read_text()
    with inside(tmp_path / "made", tmp_path / "page") as folder, PageRun(fetched) as run:
        snippets = snippets_of(ROOT / "docs" / "migrate.md")
        assert sum(len(snippet.commands()) for snippet in snippets) == 7
        for snippet in snippets:
            run.do(snippet)
    for name in ("old.cache", "moved.cache"):
        assert (folder / name).read_text() == cache.replace("TRT-8601", "TRT-101300")
    assert (folder / "new.cache").read_text().startswith("TRT-101300-EntropyCalibration2\nimages: ")
