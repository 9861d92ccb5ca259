"""A report as a table that fits a terminal of 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calib8.engine.plan_check import PlanCheck
from calib8.report.activity import render_activity
from calib8.report.lines import lines
from calib8.report.report import Machine, Report
from calib8.verification.speed import Speed


def render(report: Report) -> RenderableType:
    """The proof: size, accuracy, plan of every engine, speed, and what was not executed."""
    activity = [render_activity(report.activity)] if report.activity is not None else []
    return Group(_numbers(report), _engines(report), *activity, _verdict(report))


def _numbers(report: Report) -> Table:
    table = Table(title="INT8 against FP32", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("FP32", justify="right")
    table.add_column("INT8", justify="right")
    table.add_column("", justify="right")
    ratio = report.int8.bytes / report.model.bytes
    table.add_row("model size", size_of(report.model.bytes), size_of(report.int8.bytes), f"{ratio:.0%}")
    table.add_row("weighted ops in INT8", "", f"{report.int8_ops} of {report.weighted_ops}", "")
    accuracy = report.accuracy
    table.add_row("cosine to FP32, mean", "1", f"{accuracy.cosine_mean:.4f}", "")
    table.add_row("cosine to FP32, 1st percentile", "1", f"{accuracy.cosine_p1:.4f}", "")
    sqnr = "exact" if accuracy.sqnr_db is None else f"{accuracy.sqnr_db:.1f} dB"
    table.add_row("signal to quantisation noise", "", sqnr, "")
    if accuracy.neighbours is not None:
        table.add_row("same nearest neighbour", "100 %", f"{100 * accuracy.neighbours:.1f} %", "")
    if accuracy.spearman is not None:
        scores = accuracy.spearman
        table.add_row(f"Spearman, {scores.pairs} pairs", f"{scores.reference:.2f}", f"{scores.candidate:.2f}", "")
    if (speed := report.speed) is not None:
        table.add_row("CPU sentences/s", f"{speed.reference:.0f}", f"{speed.candidate:.0f}", f"{speed.ratio:.2f}x")
    return table


def _engines(report: Report) -> RenderableType:
    if not report.engines:
        return lines("no engine was made")
    table = Table(title="Engines", title_justify="left", title_style="bold")
    table.add_column("target")
    table.add_column("size", justify="right")
    table.add_column("INT8 ops planned/expected", justify="right")
    table.add_column("INT8 kernels", justify="right")
    table.add_column("executed here")
    for engine in report.engines:
        plan = engine.plan
        table.add_row(
            engine.target,
            size_of(engine.file.bytes),
            f"{plan.covered}/{plan.expected}{'' if plan.passed else ' FAILED'}",
            str(plan.planned_kernels),
            "yes" if engine.executed else "no",
        )
    return table


def _verdict(report: Report) -> RenderableType:
    verdict, style = ("PASSED", "bold green") if report.passed else (f"FAILED: {report.failure}", "bold red")
    seen = ", the calibration data itself: no proof" if report.measured_on_calibration_data else ""
    said = [
        lines(verdict, style=style),
        lines(f"accuracy: {report.accuracy.samples} samples from {report.held_out}{seen}"),
    ]
    said.append(lines(f"INT8 ran in {in_runtime(report.accuracy_runtime)}"))
    if report.speed is not None:
        said.append(lines(f"FP32 ran in {report.speed.reference_runtime}"))
        said.append(lines(*cpu_speed(report.machine, report.speed).split("\n")))
    if report.engines:
        said.append(lines(f"engines: {report.engines[0].builder}, FP16 for what is not INT8; not run here"))
        said += _conditioning(report)
        said += [lines(f"{plan.target}: {plan.describe_host_driven()}") for plan in _plans(report) if plan.host_driven]
    return Group(*said)


def _plans(report: Report) -> list[PlanCheck]:
    return [engine.plan for engine in report.engines]


def _conditioning(report: Report) -> list[Text]:
    """What conditioning the activations costs: one line, or one for each engine where they differ."""
    plans = [plan for plan in _plans(report) if plan.conditioning]
    said = {plan.target: plan.describe_conditioning() for plan in plans}
    if len(set(said.values())) == 1:
        said = {"conditioning": next(iter(said.values()))}
    return [lines(f"{name}: {text}") for name, text in said.items()]


def cpu_speed(machine: Machine, speed: Speed) -> str:
    """Which units of the CPU the speed of INT8 depends on; where it is slower than FP32, that nothing follows."""
    units = (("VNNI", machine.vnni), ("AMX", machine.amx))
    there = ", ".join(f"{name} {({True: 'yes', False: 'no', None: 'unknown'})[known]}" for name, known in units)
    slower = ".\nINT8 is slower than FP32 on this CPU: no verdict on accuracy, nor on a GPU" if speed.ratio < 1 else ""
    return f"CPU speed depends on INT8 units: {there}{slower}"


def in_runtime(description: str) -> str:
    """A runtime with its arithmetic: on the CPU FP32, unless it says itself that ``calib8 tune`` chose bf16."""
    says_it = "on CPU" not in description or "for what is not INT8" in description
    return description if says_it else f"{description}, with FP32 for what is not INT8"


def size_of(size: int) -> str:
    """For people: ``127 MB``, ``621 kB``, ``80 bytes``."""
    if size < 1e3:
        return f"{size} bytes"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e3:,.0f} kB"
