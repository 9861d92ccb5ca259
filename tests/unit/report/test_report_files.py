"""``verify -o`` and ``bench -o``: JSON, and a page beside it."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from shell import Shell

from calib8.testing import tiny_encoder, tiny_mlp


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    ir.save(tiny_mlp(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    return tmp_path / "model.onnx", tmp_path / "data.npz"


def verified(calib8: Shell, files: tuple[Path, Path], *limits: object) -> tuple[int, dict, str]:
    model, data = files
    output = data.with_name("verified.json")
    code, out, _ = calib8("verify", model, model, "--data", data, "-o", output, "--runtime", "onnxruntime", *limits)
    assert "details" not in out  # they are for the page
    return code, json.loads(output.read_text()), output.with_suffix(".html").read_text(encoding="utf-8")


def test_a_verdict_is_kept(calib8: Shell, files: tuple[Path, Path]) -> None:
    code, report, page = verified(calib8, files, "--min-cosine", 0.9)
    assert (code, report["passed"], report["failure"]) == (0, True, None)
    assert report["limits"]["min_cosine"] == 0.9
    assert report["reference"]["sha256"] == report["candidate"]["sha256"]
    assert sum(report["accuracy"]["details"]["scores"]["counts"]) == 8
    assert "<strong>PASSED</strong>" in page


def test_a_missed_limit_is_kept_too(calib8: Shell, files: tuple[Path, Path]) -> None:
    model, data = files
    other = model.with_name("other.onnx")
    changed = tiny_mlp()
    for value in changed.graph.initializers.values():
        value.const_value = ir.tensor(-value.const_value.numpy())
    ir.save(changed, other)
    output = data.with_name("missed.json")
    code, _, _ = calib8(
        "verify", model, other, "--data", data, "-o", output, "--runtime", "onnxruntime", "--min-cosine", 0.9999
    )
    assert code == 1
    assert "mean cosine" in json.loads(output.read_text())["failure"]
    assert "<strong>FAILED</strong>" in output.with_suffix(".html").read_text(encoding="utf-8")


def test_nothing_judged_is_no_pass(calib8: Shell, files: tuple[Path, Path]) -> None:
    code, report, page = verified(calib8, files)
    assert (code, report["passed"]) == (0, None)
    assert "nothing was judged" in page


def test_sentences_are_quoted_unless_told_otherwise(calib8: Shell, tokenizer_folder: Path, tmp_path: Path) -> None:
    model, text, output = tokenizer_folder / "model.onnx", tmp_path / "text.txt", tmp_path / "verified.json"
    ir.save(tiny_encoder(), model)
    text.write_text("a b c\nd e d e\na a a", encoding="utf-8")
    arguments = ("verify", model, model, "--data", text, "-o", output, "--runtime", "onnxruntime")
    for option, quoted in (("--sentences", True), ("--no-sentences", False)):
        assert calib8(*arguments, option)[0] == 0
        for path in (output, output.with_suffix(".html")):
            assert ("d e d e" in path.read_text(encoding="utf-8")) is quoted
    convert = ("convert", model, "--data", text.with_name("data"), "--held-out", text, "--no-engine", "--min-sqnr", 0)
    assert calib8("prepare", text, "--tokenizer", tokenizer_folder, "-o", text.with_name("data"))[0] == 0
    for option, quoted in (("--no-sentences", False), ("--sentences", True)):
        calib8(*convert, "-o", tmp_path / "made", option)
        for name in ("report.json", "report.html"):
            assert ("d e d e" in (tmp_path / "made" / name).read_text(encoding="utf-8")) is quoted


def test_only_a_gpu_is_watched_and_timed(calib8: Shell, files: tuple[Path, Path]) -> None:
    model, data = files
    code, _, err = calib8("verify", model, model, "--data", data, "--monitor")
    assert code == 2
    assert "--monitor watches the GPU" in err
    code, _, err = calib8("verify", model, model, "--data", data, "--profile")
    assert code == 2
    assert "--profile times kernels on the GPU, and without --gpu nothing need run there: give both." in err


def test_a_benchmark_has_its_page(calib8: Shell, files: tuple[Path, Path]) -> None:
    model, data = files
    output = data.with_name("bench.json")
    code, _, err = calib8(
        "bench", model, "--data", data, "--seconds", 0, "-o", output, "--runtime", "onnxruntime", "--batches", 2
    )
    assert code == 0, err
    assert "Latency by artefact and batch" in output.with_suffix(".html").read_text(encoding="utf-8")
