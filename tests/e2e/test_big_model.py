"""A model beyond protobuf's 2 GiB, its weights as external data, through the command line."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIB = 3.0


def test_three_gib_are_calibrated_and_quantised_within_two_more(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "bench" / "big_model.py", "--gigabytes", "3.3", "--treatment", "plain"]
    done = subprocess.run([*command, "-o", tmp_path / "result.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["model_gib"] >= GIB
    assert result["peak_beyond_the_model_gib"] <= 2
    assert "49 of 49 weighted ops in INT8" in done.stdout, done.stdout
