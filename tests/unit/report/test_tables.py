"""Tables for people fit 80 columns whatever the names in them are, and lose no number for it."""

import io
from collections.abc import Callable

import page_report
import pytest
from rich.console import Console, RenderableType

from calib8.quantization.quant_plan import QuantPlan
from calib8.quantization.sensitivity import OpSensitivity, Sensitivity
from calib8.report import contents
from calib8.report.sections.plan import plan_section
from calib8.report.sections.sensitivity import sensitivity_section
from calib8.report.terminal import render

DEEP = "/model/encoder/layer.{}/attention/self/a_module_with_quite_a_long_name/query/MatMul"
RECIPE = "smooth 0.85, shift, split 32, reach 1.15"
MISSED = {"covered": 1, "missing": ("mm",), "passed": False, "host_driven": {"/rec": "LSTM: a loop"}}


def conversion() -> RenderableType:
    report = page_report.report()
    [engine] = report.engines
    several = engine.model_copy(update={"target": "sm75+sm80+sm86+sm89+sm120"})
    exact = report.accuracy.outputs["y"].model_copy(update={"sqnr_db": None})
    accuracy = report.accuracy.model_copy(update={"outputs": {"y": exact}})
    return render(
        *contents.conversion(report.model_copy(update={"engines": (engine, several), "accuracy": accuracy})).sections
    )


def plan() -> RenderableType:
    ops = [
        op.model_copy(update={"node": DEEP.format(number) + "x" * 40 * number, "recipe": RECIPE, "extra_columns": 1024})
        for number, op in enumerate(page_report.plan().ops)
    ]
    return render(plan_section(QuantPlan(ops=tuple(ops), budget=page_report.plan().budget)))


def sensitivity() -> RenderableType:
    costs = [
        OpSensitivity(node=DEEP.format(number) + "x" * 40, kind="MatMul", recipe=RECIPE, alone=0.98765, spared=0.99999)
        for number in range(3)
    ]
    measured = Sensitivity(samples=32, all_float=0.99998, all_int8=0.97654, ops=tuple(costs))
    return render(sensitivity_section(measured, 20))


def missed() -> RenderableType:
    report = page_report.report()
    [engine] = report.engines
    plan = engine.plan.model_copy(update=MISSED)
    allowed = engine.model_copy(update={"plan": plan.model_copy(update={"passed": True, "host_driven": {}})})
    return render(
        *contents.conversion(
            report.model_copy(update={"engines": (engine.model_copy(update={"plan": plan}), allowed)})
        ).sections
    )


def test_a_missed_plan_is_told_and_an_allowed_one_is_not() -> None:
    console = Console(width=80, file=io.StringIO(), record=True, highlight=False)
    console.print(missed())
    text = console.export_text()
    assert text.count("1/2") == 2
    assert text.count("FAILED") == 1
    assert "1/2 FAILED" in text
    assert text.count("the host drives /rec (LSTM: a loop), so no CUDA graph") == 1


@pytest.mark.parametrize(
    ("made", "numbers"),
    [
        (conversion, ["400 MB", "100 MB", "25%", "0.9850", "0.9700", "3.10x", "2/2", "exact"]),
        (plan, ["0.99900", "0.99990", "1024", "0.98500 +- 0.00100"]),
        (sensitivity, ["0.98765", "0.99999", "0.97654"]),
    ],
)
def test_it_fits_80_columns(made: Callable[[], RenderableType], numbers: list[str]) -> None:
    console = Console(width=80, file=io.StringIO(), record=True, highlight=False)
    console.print(made())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert [number for number in numbers if number not in text] == []


@pytest.mark.parametrize(
    ("candidate", "vnni", "expected"),
    [
        (31.0, True, "CPU speed depends on INT8 units: VNNI yes, AMX no\n"),
        (8.0, False, "CPU speed depends on INT8 units: VNNI no, AMX no.\nINT8 is slower than FP32 on this CPU"),
        (8.0, None, "CPU speed depends on INT8 units: VNNI unknown, AMX no.\nINT8 is slower"),
    ],
)
def test_speed_on_the_cpu_is_said_to_be_of_this_cpu_and_no_verdict(
    candidate: float, vnni: bool | None, expected: str
) -> None:
    report = page_report.report()
    assert report.speed is not None
    machine = report.machine.model_copy(update={"vnni": vnni, "amx": False})
    speed = report.speed.model_copy(update={"candidate": candidate})
    console = Console(width=200, file=io.StringIO(), record=True, highlight=False)
    console.print(render(*contents.conversion(report.model_copy(update={"machine": machine, "speed": speed})).sections))
    text = console.export_text()
    assert expected in "\n".join(line.rstrip() for line in text.splitlines())
    assert "PASSED" in text
