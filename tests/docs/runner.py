"""Runs one snippet, or checks it where it cannot run here."""

import ast
import contextlib
import functools
import inspect
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from snippets import CHECKED, ROOT, Snippet

import calib8
from calib8.cli.main import app, main

CALIB8: Any = typer.main.get_command(app)


class PageRun:
    """The snippets of one page, one after the other, in one folder and one Python namespace."""

    def __init__(self, fetched: Callable[[str, Path], None]) -> None:
        self.fetched = fetched
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.servers = contextlib.ExitStack()
        self.port = "8000"

    def __enter__(self) -> "PageRun":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.servers.close()

    def do(self, snippet: Snippet) -> None:
        """Run a snippet, or check it where it cannot run here."""
        if snippet.kind == "data":
            json.loads(snippet.code)
        elif snippet.kind == "shell":
            self._shell(snippet)
        elif snippet.needs:
            check_python(snippet.code)
        else:
            exec(compile(self._here(snippet.code), str(snippet), "exec"), self.names)

    def _here(self, code: str) -> str:
        """Code with the port that this page's server has here."""
        return code.replace(":8000", f":{self.port}")

    def _shell(self, snippet: Snippet) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            for line in snippet.commands():
                self._command(self._here(line), snippet.needs)
        assert snippet.prints in printed.getvalue(), f"does not print\n{snippet.prints}\nbut\n{printed.getvalue()}"

    def _command(self, line: str, needs: str) -> None:
        words = shlex.split(line.replace(".venv/bin/", ""), comments=True)
        if needs or words[0] in CHECKED:
            check_command(words)
        elif words[:2] == ["calib8", "serve"]:
            self._serve(words[1:])
        elif words[:2] == ["calib8", "fetch"]:
            check_command(words)
            self.fetched(words[2], Path(words[words.index("--to") + 1]))
        elif words[0] == "calib8" and not {"|", ">", "<", "&&"} & set(words):
            run_calib8(words[1:])
        else:
            self._in_shell(line)

    def _in_shell(self, line: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = line.replace(".venv/bin/", "")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def _serve(self, arguments: list[str]) -> None:
        """Start a server that ends with the page; later snippets find it where the page says, on a free port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        if "--port" in arguments:
            del arguments[(at := arguments.index("--port")) : at + 2]
        command = [sys.executable, "-m", "calib8", *arguments, "--port", self.port]
        log = Path("server.log")  # no pipe: nobody would empty it
        with log.open("w") as said:
            server = subprocess.Popen(command, stdout=said, stderr=said)
        self.servers.callback(_stop, server)
        for _ in range(300):
            assert server.poll() is None, f"{command}\n{log.read_text()}"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health"):
                return
            time.sleep(0.1)
        raise AssertionError(f"{command} does not answer")


def run_calib8(arguments: list[str]) -> None:
    """Run ``calib8`` in this process: starting Python for every command would take most of the time."""
    briefly = ["--seconds", "0"] if arguments[:1] == ["bench"] else []  # how fast small models are is nobody's business
    before, sys.argv = sys.argv, ["calib8", *arguments, *briefly]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main()
    except SystemExit as ended:
        if ended.code:
            raise AssertionError(f"calib8 {shlex.join(arguments)}: exit code {ended.code}\n{said.getvalue()}") from None
    finally:
        sys.argv = before


def check_command(words: list[str]) -> None:
    """That a command line would be understood: by typer, argparse, make or pip's extras; nothing is executed."""
    program = words[0]
    if program == "calib8":
        command, rest = CALIB8, words[1:]
        while subcommands := getattr(command, "commands", None):
            assert {*rest[:1]} & {*subcommands}, f"no such command: {shlex.join(words)}"
            command, rest = subcommands[rest[0]], rest[1:]
        command.make_context(words[1], rest)
    elif program in ("python", "python3") and words[1] == "-m":
        assert find_spec(words[2]) is not None, f"no module {words[2]}"
    elif program in ("python", "python3"):
        check_script(ROOT / words[1], words[2:])
    elif program == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif program == "pip":
        check_extras(words)
    else:
        assert program in ("curl", "docker", "nvidia-smi", "ray", "sudo"), (
            f"no way to check {program!r}; add one to tests/docs/runner.py"
        )


def check_script(script: Path, arguments: list[str]) -> None:
    """That a script of ours exists, and that its ``--help`` names every option that is given to it."""
    told = help_of(script)
    unknown = [word for word in arguments if word.startswith("--") and not re.search(rf"{word}\b", told)]
    assert not unknown, f"{script.name} has no option {' '.join(unknown)}"


@functools.cache
def help_of(script: Path) -> str:
    """What a script of ours prints for ``--help``: several pages name the same."""
    return subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True).stdout


def check_extras(words: list[str]) -> None:
    """That calib8 has the extras that ``pip install`` is asked for."""
    listed = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = ", listed, re.MULTILINE)
    for word in words[2:]:
        if found := re.fullmatch(r"(?:calib8|\.)\[(.+)\]", word):
            unknown = set(found[1].split(",")) - set(extras)
            assert not unknown, f"calib8 has no extra {', '.join(sorted(unknown))}"


def check_python(code: str) -> None:
    """That code compiles, and that calib8 has the names and arguments that it uses."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "calib8":
            getattr(calib8, node.attr)
        if isinstance(node, ast.Call) and (name := re.fullmatch(r"calib8\.(\w+)", ast.unparse(node.func))):
            given = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(getattr(calib8, name[1])).bind_partial(*node.args, **given)


@contextlib.contextmanager
def inside(template: Path, folder: Path) -> Iterator[Path]:
    """A copy of a sandbox as the working directory."""
    shutil.copytree(template, folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    server.wait(timeout=30)
