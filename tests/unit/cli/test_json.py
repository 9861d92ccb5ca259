"""``--json``: every command's stdout is one document, with the fields that docs/json.md lists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest
import typer
from jsonschema import Draft202012Validator
from PIL import Image
from shell import Shell

from calib8.cli.main import app
from calib8.testing import tiny_encoder

PAGE = (Path(__file__).parents[3] / "docs" / "json.md").read_text(encoding="utf-8")
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "json-schema.json").read_text(encoding="utf-8"))
#: Command -> its documented fields besides ``format``, which is the first of a row.
DOCUMENTED = {
    verb: (form, set(re.findall(r"`(\w+)`", fields)))
    for verb, form, fields in re.findall(r"^\| `calib8 ([\w -]+?)` \| `(calib8\.[\w-]+/1)` \| (.*) \|$", PAGE, re.M)
}
#: A server: it prints its address and runs until it is stopped.
WITHOUT = {"serve"}
SENTENCES = ["a b c", "d", "e a", "b b b b", "c d e", "a", "e e", "d c b a", "b", "a c"] * 4


def valid(out: str) -> dict[str, object]:
    """The document of a command, which must be one that docs/json-schema.json knows by its ``format``."""
    document = json.loads(out)
    kinds = [name for name, kind in SCHEMA["$defs"].items() if kind.get("properties", {}).get("format") is not None]
    own = [name for name in kinds if SCHEMA["$defs"][name]["properties"]["format"]["const"] == document["format"]]
    assert own, document["format"]
    of_format = SCHEMA | {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in own]}
    Draft202012Validator(of_format).validate(document)
    return dict(document)


def test_no_command_lacks_it() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lacking = {name for name, command in commands.items() if not any("--json" in o.opts for o in command.params)}
    assert lacking == WITHOUT
    assert {verb.split()[0] for verb in DOCUMENTED} == set(commands) - WITHOUT


def test_every_document_is_as_documented(
    calib8: Shell, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("calib8.fetch", lambda name, to, file, progress: to)
    monkeypatch.chdir(tmp_path)
    model, int8, text = tokenizer_folder / "model.onnx", tokenizer_folder / "model.int8.onnx", tmp_path / "texts.txt"
    ir.save(tiny_encoder(), model)
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    ranges = ("--ranges", "ranges.json", "--min-sqnr", 0)
    seen = set()

    def told(verb: str, *arguments: object) -> dict[str, object]:
        code, out, err = calib8(*verb.split(), *arguments, "--json")
        assert code == 0, err
        document = valid(out)
        form, fields = DOCUMENTED[verb]
        assert document.pop("format") == form
        assert set(document) == fields, verb
        seen.add(verb)
        return dict(document)

    assert told("fetch", "tiny", "--to", "there") == {"model": "there/model.onnx"}
    assert told("prepare", text, "--tokenizer", model.parent, "-o", "data") == {"folder": "data"}
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "black.png")
    assert told("prepare-images", "photos", "-o", "images") == {"folder": "images"}
    found = told("calibrate", model, "--data", "data", "--cache", "calibration.cache")
    assert (found["samples"], found["cache"]) == (40, "calibration.cache")
    told("sensitivity", model, "--data", "data", "--samples", 4)
    assert told("quantize", model, *ranges, "-o", int8)["int8_ops"] == 6
    [engine] = told("build", int8, "-o", "tiny.engine", "--target", "sm86")["engines"]  # type: ignore[misc]
    assert (engine["target"], engine["size_bytes"]) == ("sm86", Path("tiny.engine").stat().st_size)
    told("convert", model, "--data", "data", "-o", "all", "--no-engine", "--min-cosine", 0, "--min-sqnr", 0)
    told("migrate", "calibration.cache", model, "-o", "migrated.onnx")
    told("export-cache", "ranges.json", "-o", "again.cache")
    assert told("run", int8, "--data", "data", "-o", "outputs")["outputs"]
    assert len(told("embed", int8, text)["embeddings"]) == len(SENTENCES)  # type: ignore[arg-type]
    assert told("verify", model, int8, "--data", text, "--min-cosine", 0)["passed"] is True
    assert valid(calib8("embed", int8, text, "-o", "vectors.npy", "--json")[1])["shape"] == [len(SENTENCES), 8]
    told("inspect", int8)
    told("export triton", int8, "-o", "repository")
    told("bench", model, int8, "--data", text, "--seconds", 0)
    told("estimate", model, "--gpus", "L4")
    told("tune", int8, "--data", text)
    told("doctor")
    assert seen == set(DOCUMENTED)


def test_a_missed_limit_is_in_the_document_and_other_errors_are_one(
    calib8: Shell, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model, text = tokenizer_folder / "model.onnx", tmp_path / "texts.txt"
    other = model.with_name("other.onnx")
    ir.save(tiny_encoder(), model)
    ir.save(tiny_encoder(heads=1), other)
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    code, out, err = calib8("verify", model, other, "--data", text, "--min-cosine", 0.9999, "--json")
    assert (code, valid(out)["passed"]) == (1, False)
    code, out, err = calib8("inspect", tmp_path / "none", "--json")
    assert code == 2
    assert valid(out)["exit_code"] == 2
    assert str(valid(out)["message"]) in err
    assert calib8("inspect", model)[1].startswith("kind")  # the next command is for people again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "x", "--dta", "y"], "No such option: --dta"),
        (["calibrate"], "Missing argument"),
        (["calibrate", "x", "--data", "y", "--observer", "magic"], "'magic' is not one of 'minmax'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_a_mistake_in_the_command_line_is_a_document(calib8: Shell, arguments: list[str], message: str) -> None:
    code, out, err = calib8(*arguments, "--json")
    document = valid(out)
    assert message in str(document.pop("message"))
    assert document == {"format": "calib8.error/1", "error": "UsageError", "exit_code": code}
    assert code == 2
    assert message in err
    assert calib8(*arguments)[:2] == (2, "")


def calib8_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [Path(sys.executable).with_name("calib8"), *arguments]
    return subprocess.run(
        program, capture_output=True, text=True, check=True, timeout=120, env=os.environ | environment
    )


def test_a_pipe_gets_no_colour(tmp_path: Path) -> None:
    done = calib8_process("doctor", COLUMNS="80")
    assert "calib8" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str, tmp_path: Path) -> None:
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # or it is always that of whoever runs the tests
    script = calib8_process("--show-completion", shell, **named).stdout
    assert f"_CALIB8_COMPLETE=complete_{shell}" in script
    calib8_process("--install-completion", shell, HOME=str(tmp_path), **named)
    assert any("_CALIB8_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_completion_knows_commands_and_options() -> None:
    def completed(words: str) -> set[str]:
        environment = {"_CALIB8_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return set(calib8_process(**environment).stdout.split())

    assert completed("calib8 cali") == {"calibrate"}
    assert "--json" in completed("calib8 inspect --")
