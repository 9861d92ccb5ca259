"""Documentation that cannot drift: links, source files, help pages, commands in sentences, floors; how long code is.

python docs/check.py            report what is wrong, exit 1 if anything is
python docs/check.py --write    write docs/cli.md, docs/api.md and docs/json-schema.json from the source, and the floors
"""

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

os.environ.update(COLUMNS="80", TERM="dumb", NO_COLOR="1")  # before the command line looks at the terminal
from api import api_page

from calib8.cli.documents import schema
from calib8.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
HELP_PAGE, API_PAGE, SCHEMA = (ROOT / "docs" / name for name in ("cli.md", "api.md", "json-schema.json"))
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LONGEST_FUNCTION = 70
LONGEST_FILE = 420
SKIPPED = (".venv", "build", "models", ".git")


def main() -> int:
    """Print every problem; the exit code says whether there were any."""
    written = {
        HELP_PAGE: help_page(),
        API_PAGE: api_page(),
        SCHEMA: json.dumps(schema(), indent=1) + "\n",
        ARCHITECTURE: architecture(),
    }
    if "--write" in sys.argv[1:]:
        for path, text in written.items():
            path.write_text(text, encoding="utf-8")
        return 0
    problems = [*broken_links(), *missing_sources(), *unknown_commands(), *oversized_source()]
    for path, text in written.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            problems.append(f"docs/{path.name} is not what the source says of itself: run `make help-pages`")
    print("\n".join(problems) or "documentation: links, help pages, commands and source sizes are fine")
    return 1 if problems else 0


def help_page() -> str:
    """The help of every verb, as a terminal of 80 columns shows it."""
    runner = CliRunner()
    parts = ["# Command line\n\nWritten by `make help-pages` from `calib8 VERB --help`.\n"]
    for verb in verbs():
        text = runner.invoke(app, [verb, "--help"], prog_name="calib8").output
        parts.append(f"## calib8 {verb}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


def architecture() -> str:
    """The page on the architecture, with the floors that import-linter holds the source to."""
    contract = re.search(r"^layers = (\[.*?^\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)
    assert contract is not None
    floors = "\n".join(floor.replace(" : ", "  ") for floor in ast.literal_eval(contract[1]))
    page = ARCHITECTURE.read_text(encoding="utf-8")
    return re.sub(r"(?<=<!-- layers -->\n```text\n).*?(?=```\n<!-- /layers -->)", floors + "\n", page, flags=re.S)


def missing_sources() -> Iterator[str]:
    """Source files that a page names and nobody has."""
    for page in markdown():
        for name in re.findall(r"`([a-z_0-9/]+/[a-z_0-9]+\.py)`", page.read_text(encoding="utf-8")):
            if not any((folder / name).is_file() for folder in (ROOT, ROOT / "src" / "calib8")):
                yield f"{page.relative_to(ROOT)}: there is no {name}"


def broken_links() -> Iterator[str]:
    """Relative links in Markdown whose target is missing."""
    for page in markdown():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)}: broken link {target}"


def unknown_commands() -> Iterator[str]:
    """Commands within sentences that the command line would not know. Those in blocks are run: see tests/docs."""
    known_verbs = verbs()
    for page in markdown():
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for command in re.findall(r"`calib8 ([a-z][^`]*)`", text):
            words = command.split()
            verb = known_verbs.get(words[0])
            if len(words) > 1:
                verb = getattr(verb, "commands", {}).get(words[1], verb)
            known = {option for own in verb.params for option in (*own.opts, *own.secondary_opts)} if verb else set()
            if verb is None or not {word for word in words if word.startswith("-")} <= known:
                yield f"{page.relative_to(ROOT)}: no such command: calib8 {command}"


def oversized_source() -> Iterator[str]:
    """Functions and files that are too long to be understood in a minute."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > LONGEST_FILE:
            yield f"{path.relative_to(ROOT)}: {lines} lines, more than {LONGEST_FILE}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines"


def markdown() -> list[Path]:
    """The project's own Markdown files."""
    return [p for p in sorted(ROOT.rglob("*.md")) if p.relative_to(ROOT).parts[0] not in SKIPPED]


def verbs() -> dict[str, Any]:
    """Verb -> its command."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
