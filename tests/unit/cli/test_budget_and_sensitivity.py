"""Budgets and sensitivity from the command line: tables, files, exit codes."""

import io
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from planted_models import OPS, feeds, planted
from rich.console import Console
from shell import Shell

import calib8
from calib8.conversion.config import Convert
from calib8.errors import AccuracyMissed, DataError
from calib8.quantization.config import Int8
from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.sensitivity import OpSensitivity, Sensitivity
from calib8.report.sections.sensitivity import sensitivity_section
from calib8.report.terminal import render
from calib8.testing import tiny_encoder, token_feeds


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", **feeds(200))
    return tmp_path / "data.npz"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(planted(30.0), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    "budget", ["0.99", "cosine", "cosine=", "cosine=high", "cosine=0", "cosine=1", "cosine=nan", "cosine=0,9", "psnr=9"]
)
def test_a_budget_that_is_none(calib8: Shell, model: Path, data: Path, tmp_path: Path, budget: str) -> None:
    code, out, err = calib8("convert", model, "--data", data, "-o", tmp_path / "out", "--budget", budget)
    assert (code, out) == (2, "")
    expected = "NAME=<number between 0 and 1>, e.g. cosine=0.999, boxes=0.98, or the name of an output"
    assert err == f"error: got --budget {budget!r}, expected {expected}.\n"
    assert not (tmp_path / "out").exists()


def test_a_budget_is_kept_shown_written_and_reused(calib8: Shell, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    convert = ("convert", model, "--data", data, "-o", output, "--no-engine")
    within = (*convert, "--treatment", "plain", "--budget", "cosine=0.998")
    code, out, err = calib8(*within)
    assert code == 0, err
    shown = [line for line in out.split("\nin ")[0].splitlines() if not line.startswith("INT8 ran in")]
    assert max(map(len, shown)) <= 80  # what is inexact on a CPU without VNNI is said on a long line
    assert "Plan for a mean cosine of 0.998:\n0.999" in out
    assert "float: alone it" in out
    plan = QuantPlan.load(output / "plan.json")
    assert plan.budget is not None
    assert (plan.budget.least, plan.budget.samples) == (0.998, 21)
    assert plan.nodes("float") == ["ruined"]
    assert all(op.expected_cosine is not None for op in plan.ops)
    assert "0.998" in next(op.reason for op in plan.ops if op.node == "ruined")

    (output / "plan.json").unlink()  # as if interrupted
    made = (output / "model.int8.onnx").stat().st_mtime_ns
    code, again, err = calib8(*within)
    assert (code, again.split("mean cosine of")[1].split("|")[0][:60]) == (0, out.split("mean cosine of")[1][:60])
    assert "INT8 model is up to date" in err
    assert (output / "model.int8.onnx").stat().st_mtime_ns == made
    assert QuantPlan.load(output / "plan.json") == plan

    code, out, err = calib8(*convert, "--treatment", "plain")  # without: the ranges may see all of the data
    assert code == 0, err
    assert "calibrating again: the settings (budget) changed" in err
    assert "Plan for" not in out
    assert QuantPlan.load(output / "plan.json").budget is None
    code, _, err = calib8(*within[:-1], "cosine=0.9")
    assert code == 0, err
    assert QuantPlan.load(output / "plan.json").nodes("int8") == OPS


def test_a_budget_below_the_usual_limit_is_the_limit(calib8: Shell, data: Path, tmp_path: Path) -> None:
    ir.save(planted(100.0), tmp_path / "model.onnx")
    convert = ("convert", tmp_path / "model.onnx", "--data", data, "-o", tmp_path / "out", "--no-engine", "-q")
    within = (*convert, "--treatment", "plain", "--budget", "cosine=0.8")
    code, _, err = calib8(*within)
    assert (code, err) == (0, "")
    (output,) = json.loads((tmp_path / "out" / "report.json").read_text())["accuracy"]["outputs"].values()
    reached = output["mean"]
    assert 0.8 < reached < 0.975
    code, _, err = calib8(*within, "--min-cosine", "0.975")
    assert code == 1
    assert f"mean cosine {reached:.5f}, expected at least 0.975" in err


def test_a_missed_budget(calib8: Shell, model: Path, data: Path, tmp_path: Path) -> None:
    code, out, err = calib8(
        "convert", model, "--data", data, "-o", tmp_path / "out", "--no-engine", "-q", "--budget", "cosine=0.9999999"
    )
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: no plan with an op in INT8 keeps a mean cosine of 0.9999999 by one standard error on 21"
    )
    assert not (tmp_path / "out" / "model.int8.onnx").exists()


def test_too_few_samples_for_a_budget(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 3"):
        calib8.convert(model, [feeds(26)], tmp_path / "out", Convert(build=None, budget=0.9))


def test_a_budget_for_an_encoder(tmp_path: Path) -> None:
    """Q, K and V share a grid, whichever of them go to float."""
    ir.save(tiny_encoder(), tmp_path / "model.onnx")
    config = Convert(build=None, budget=0.9995, quantize=Int8(remainder="fp32"))
    lengths = [3, 5, 8, 13] * 32
    try:
        report = calib8.convert(tmp_path / "model.onnx", [token_feeds(*lengths)], tmp_path / "out", config)
    except AccuracyMissed as error:
        pytest.fail(str(error))
    assert report.int8_ops > 0
    plan = QuantPlan.load(tmp_path / "out" / "plan.json")
    assert plan.budget is not None
    assert plan.budget.reached >= 0.9995


def test_sensitivity_as_a_table_and_as_json(calib8: Shell, data: Path, tmp_path: Path) -> None:
    model, output = tmp_path / "model.onnx", tmp_path / "sensitivity.json"
    long = "/encoder/layer.11/attention/[/x]/output/dense/quite/a/long/name/MatMul"
    ir.save(planted(name=long), model)
    arguments = ("sensitivity", model, "--data", data, "--treatment", "plain", "-o", output)
    code, out, err = calib8(*arguments, "--samples", 8, "--show", 2)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    assert "on 8 samples" in out
    assert "by its range" in out
    shown = "".join(line.split("│")[1].strip() for line in out.splitlines() if line.count("│") == 5)
    assert shown.startswith(long)
    found = json.loads(output.read_text())
    assert found["format"] == "calib8.sensitivity/1"
    assert found["ops"][0]["node"] == long
    assert len(found["ops"]) == 4
    code, out, _ = calib8("inspect", output)
    assert code == 0
    assert f"  {long}  {found['ops'][0]['alone']:.5f} alone in INT8, " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--samples", 0), "--samples"),
        (("--include", "nosuch"), "'nosuch' matches no weighted op"),
        (("--exclude", "*"), "no op is left to measure"),
    ],
)
def test_sensitivity_refuses(calib8: Shell, model: Path, data: Path, arguments: tuple, message: str) -> None:
    code, out, err = calib8("sensitivity", model, "--data", data, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_what_all_names_begin_with_is_said_once() -> None:
    ops = [
        OpSensitivity(node=f"/encoder/[/x]/layer.{i}/MatMul", kind="MatMul", recipe=None, alone=1, spared=1)
        for i in (1, 2)
    ]
    shown = io.StringIO()
    console = Console(width=80, file=shown)
    console.print(render(sensitivity_section(Sensitivity(samples=1, all_float=1, all_int8=1, ops=tuple(ops)), 2)))
    console.print(render(sensitivity_section(Sensitivity(samples=1, all_float=1, all_int8=1, ops=(ops[0],)), 1)))
    several, alone = shown.getvalue().split("Mean cosine")[1:]
    assert "names of ops begin with /encoder/[/x]/\n" in "\n".join(map(str.rstrip, several.splitlines()))
    assert "│ layer.2/MatMul │" in several
    assert "│ /encoder/[/x]/layer.1/MatMul │" in alone
