import json
import subprocess
import sys
from pathlib import Path

import pytest

from calib8.graph.io import save
from calib8.testing import tiny_encoder

SCRIPT = Path(__file__).parents[2] / "bench" / "accuracy.py"
SENTENCES = ["a b c", "b c d e", "a a e", "e d", "c", "b a d c e", "d d a", "e b"]


@pytest.fixture
def pairs(tokenizer_folder: Path, tmp_path: Path) -> Path:
    save(tiny_encoder(), tokenizer_folder / "model.onnx")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(f"{one},{one} a,{score}" for score, one in enumerate(SENTENCES)), encoding="utf-8")
    return path


def bench(folder: Path, pairs: Path, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, folder, "--calibration", pairs, "--pairs", pairs, "--results", results]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def test_rows_are_measured_kept_and_reused(tokenizer_folder: Path, pairs: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        rows = ["--only", "calib8-plain-0", "--only", "modelopt-max"]
        return bench(tokenizer_folder, pairs, results, *rows, *options)

    assert run().returncode == 0
    kept = json.loads(results.read_text(encoding="utf-8"))
    row = kept["rows"]["calib8-plain-0"]
    assert 0.99 < row["cosine_min"] <= row["cosine_mean"] <= 1.00001
    assert row["integer_ops"] == kept["fp32"]["weighted_ops"] == 6
    assert row["user_s"] > 0
    assert row["peak_gib"] > 0
    assert "--with nvidia-modelopt=PYTHON" in kept["rows"]["modelopt-max"]["absent"]
    assert str(tmp_path) not in results.read_text(encoding="utf-8")

    row["user_s"] = 1234
    results.write_text(json.dumps(kept), encoding="utf-8")
    assert run().returncode == 0
    assert json.loads(results.read_text(encoding="utf-8"))["rows"]["calib8-plain-0"] == row
    assert "1234" in results.with_suffix(".txt").read_text(encoding="utf-8")

    other = run("--limit-pairs", "4")
    assert other.returncode == 1
    assert "holds rows of another model or other data" in other.stderr


@pytest.mark.parametrize("name", ["calib8", "minmax", "smoothquant", "smoothquant-gptq"])
def test_every_row_of_our_own_works(tokenizer_folder: Path, pairs: Path, tmp_path: Path, name: str) -> None:
    results = tmp_path / "results.json"
    done = bench(tokenizer_folder, pairs, results, "--only", name)
    assert done.returncode == 0, done.stderr
    row = json.loads(results.read_text(encoding="utf-8"))["rows"][name]
    assert 0.99 < row["cosine_min"] <= row["cosine_mean"] <= 1.00001
    assert (row["integer_ops"], row["qdq"]) == (6, "exact")
