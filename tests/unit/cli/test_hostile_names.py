"""256 hostile names are shown, and none reaches a terminal, a log or a page as a command."""

import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from page_report import full_page, plan
from rich import table as rich_table
from rich.console import Group
from shell import Shell

import calib8 as calib8_library
from calib8 import console
from calib8.console import visible, visible_json
from calib8.engine.process import BuildLog
from calib8.graph.builder import GraphBuilder
from calib8.quantization.quant_plan import QuantPlan
from calib8.report.lines import lines
from calib8.report.page.html import html_of
from calib8.report.section import Cell, Column, Note, Section, Table
from calib8.report.sections.plan import plan_section
from calib8.report.terminal import render
from hostile import NAMES, TEXTS, forbidden

#: Of what rich writes itself: colours, and what moves its own bars.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K")


def test_there_are_256_of_them() -> None:
    assert len(set(NAMES)) == len(NAMES) == 256
    assert sum(bool(forbidden(name, "")) for name in NAMES) == 224
    assert len(TEXTS) == 248


def test_every_byte_of_c0_and_c1_and_every_override_is_among_them() -> None:
    every = set("".join(NAMES))
    assert {chr(code) for code in (*range(1, 32), *range(127, 160), *range(0x202A, 0x202F), 0x2028, 0x2029)} <= every


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcödé 日本 😀", "plain, ünïcödé 日本 😀"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\r\tc\x00", r"a\nb\r\tc\x00"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("\u202eabc\u2066\u200b\u2028", r"\u202eabc\u2066\u200b\u2028"),
        ("\udc9b\U000e0041", r"\udc9b\U000e0041"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("terminal", [False, True])
def test_the_console_prints_a_line_for_each(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    shown = console.Console(file=stream, force_terminal=terminal, width=100, color_system="truecolor")
    for name in NAMES:
        shown.print(f"error: {name}", style="red")
    said = OWN.sub("", stream.getvalue())
    assert said.splitlines() == [f"error: {visible(name)}" for name in NAMES]
    assert not forbidden(said)


@pytest.mark.parametrize("terminal", [False, True])
def test_tables_bars_and_notes_print_no_control_byte(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    shown = console.Console(file=stream, force_terminal=terminal, width=100, color_system="truecolor")
    monkeypatch.setattr(console, "err", shown)
    [first, *_] = plan().ops
    named = [first.model_copy(update={"node": name, "reason": name, "treatment": "float"}) for name in NAMES]
    shown.print(render(plan_section(QuantPlan(ops=tuple(named)))))
    table = rich_table.Table(title="[red]mine")
    for name in NAMES:
        table.add_row(name, lines(name, name))
    shown.print(Group(table, *map(lines, NAMES)))
    for name in NAMES:
        with console.ConsoleProgress() as progress:
            progress.note(name)
            progress.update(name, 1, 2)
            progress.update(name, 2, 2)
    said = OWN.sub("", stream.getvalue())
    assert not forbidden(said, "\n\r" if terminal else "\n")
    assert "[link=https://example.com]op[/link]" in said
    assert ":smile:" in said
    assert "[red]mine" in said


def test_json_escapes_by_nature_and_stays_the_same_document() -> None:
    document = json.dumps({name: [name] for name in NAMES}, indent=2, ensure_ascii=False)
    escaped = visible_json(document)
    assert not forbidden(escaped)
    assert json.loads(escaped) == {name: [name] for name in NAMES}


def test_logs_and_pages_hold_no_control_byte() -> None:
    assert not forbidden(str(BuildLog([("VERBOSE", name) for name in NAMES])))
    rows = tuple((Cell(name), Cell(name, 1.0)) for name in NAMES)
    table = Table("names", (Column("name"), Column("\x1b[31m")), rows)
    said = Section("names", notes=tuple(map(Note, NAMES)), tables=(table,))
    page = html_of(replace(full_page(), title=NAMES[0], about="".join(NAMES), sections=(said,)))
    assert not forbidden(page)
    assert r"\u202e" in page


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a MatMul of each name, one after the other, and data for it."""
    folder = tmp_path_factory.mktemp("named")
    g = GraphBuilder()
    hidden = g.input("\x1b[31min\x9b", ir.DataType.FLOAT, "batch", 4)
    for number, name in enumerate(TEXTS):
        hidden = g.op("MatMul", hidden, g.weight(f"{name}.weight.{number}", 4, 4), name=name)
    model = g.model(**{"out\u202e\r": hidden})
    model.metadata_props["calib8.\x1b]0;x\x07"] = "\x1b[2J"
    ir.save(model, folder / "model.onnx")
    return folder


def test_commands_print_no_control_byte(calib8: Shell, named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect, calibrate, quantize, verify, export-cache and migrate a model with hostile names."""
    monkeypatch.chdir(named)
    rows = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    np.savez("data.npz", **{"\x1b[31min\x9b": rows})
    said = []
    for command in (
        "inspect model.onnx", "inspect data.npz", "calibrate model.onnx --data data.npz", "inspect ranges.json",
        "quantize model.onnx --ranges ranges.json -o int8.onnx --plan plan.json --min-sqnr 0", "inspect plan.json",
        "inspect plan.json --json", "verify model.onnx int8.onnx --data data.npz", "inspect int8.onnx",
        "verify model.onnx int8.onnx --data data.npz -o report.json --min-cosine 1", "inspect report.json",
    ):  # fmt: skip
        code, out, err = calib8(*command.split())
        assert code == (1 if "--min-cosine" in command else 0), err
        assert not forbidden(out + err), command
        said.append(out + err)
    for name in TEXTS:
        assert f"{visible(name)}  " in said[5]  # a line of the plan
    assert set(json.loads(said[6])["facts"]["ops"]) == set(TEXTS)
    assert {op["node"] for op in json.loads(Path("plan.json").read_text(encoding="utf-8"))["ops"]} == set(TEXTS)
    assert not forbidden(Path("report.html").read_text(encoding="utf-8"))


def test_errors_show_names_of_files_and_options(calib8: Shell) -> None:
    forms = (("inspect", "--"), ("--",), ("inspect", "a", "--"), ("fetch", "--to", "x", "--"))
    for number, name in enumerate(NAMES):
        code, out, err = calib8(*forms[number % len(forms)], name)
        assert code == 2, err
        told = (visible(name), visible(str(Path(name))))  # a path has no "//", and some quote it as Python does
        if err.startswith("error: "):  # in calib8's words; typer's have escapes of their own
            assert any(text.replace("\\", "") in err.replace("\\", "") for text in told), (name[:60], err[:300])
        assert not forbidden(out + err)


def test_a_debugged_crash_and_a_build_error_show_theirs(calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB8_DEBUG", "1")
    for name in NAMES[::16]:
        monkeypatch.setattr("calib8.inspect", lambda path, name=name: {}[name])
        code, out, err = calib8("inspect", "x")
        assert code == 70
        assert not forbidden(out + err)


def test_the_library_keeps_the_names_as_they_are(named: Path) -> None:
    assert {node.name for node in calib8_library.load(named / "model.onnx").graph} == set(TEXTS)


def test_warnings_of_libraries_show_names(calib8: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(path: Path) -> dict[str, str]:
        warnings.simplefilter("always")
        for name in NAMES:
            warnings.warn(name, RuntimeWarning, stacklevel=1)
        return {"kind": "x"}

    monkeypatch.setattr("calib8.inspect", warn)
    code, _, err = calib8("inspect", "x")
    assert code == 0
    assert err.splitlines() == [f"warning: {visible(name)}" for name in NAMES]
