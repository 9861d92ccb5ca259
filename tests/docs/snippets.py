"""Commands and code in README.md and docs/: found, and what each of them needs.

Every indented block and every fence is a snippet, except ```text, which is something printed or drawn. HTML comments
say what a reader need not see:

    <!-- needs: gpu -->      the next snippet is checked, not run; ``NEEDS`` holds the reasons
    <!-- prints -->          the next ```text is part of what the snippet before it prints
    <!-- sandbox: cnn -->    the folder that this page's snippets run in, see ``sandbox.py``
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
#: Why a snippet is checked instead of run.
NEEDS = {
    "gpu": "needs a GPU that TensorRT runs on",
    "tensorrt 10": "needs the full TensorRT 10 and its GPU",
    "cluster": "needs a Ray cluster of several machines",
    "machine": "sets up a machine: packages, drivers, environments, downloads",
    "hours": "takes many minutes, other tools or data sets that are not here",
    "network": "needs the model hub",
    "triton": "needs a Triton Inference Server",
    "docker": "needs Docker",
    "package": "needs a package that calib8's tests do not install",
    "own objects": "is about objects that only the reader has",
}
#: Programs of which a command line is checked instead of run, and why.
CHECKED = {"make": "a target of the Makefile, which takes minutes", "pip": "would install into this environment"}
SHELL, PYTHON, DATA = ("", "console", "bash", "sh"), ("python",), ("json",)


@dataclass(frozen=True)
class Snippet:
    """One block of a page. ``kind`` is shell, python or data; ``prints`` is what the page says that it prints."""

    page: Path
    line: int
    kind: str
    language: str
    code: str
    needs: str = ""
    prints: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """Its command lines, continued lines joined; of a ``console`` those behind ``$``."""
        lines = self.code.replace("\\\n", " ").splitlines()
        if self.language == "console" and any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def unrun(self) -> str:
        """Why it is checked and not run, as a whole or some of its commands; empty if all of it runs."""
        if self.needs:
            return NEEDS[self.needs]
        programs = {line.split()[0] for line in self.commands()} if self.kind == "shell" else set()
        return "; ".join(CHECKED[name] for name in sorted(programs & set(CHECKED)))


def pages() -> list[Path]:
    """README.md, what GitHub shows beside it, and all of docs/, except generated pages."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return [page for page in sorted(found) if not page.read_text(encoding="utf-8").startswith("# Command line\n")]


def sandbox_of(page: Path) -> str:
    """Name of the sandbox that a page asks for."""
    found = re.search(r"<!-- sandbox: (.+?) -->", page.read_text(encoding="utf-8"))
    return found[1] if found else "encoder"


def snippets_of(page: Path) -> list[Snippet]:
    """The snippets of a page in order. Raises ``ValueError`` for a block that says nothing of what it is."""
    found: list[Snippet] = []
    needs, prints = "", False
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            wanted = re.search(r"<!-- needs: (.+?) -->", token.content)
            needs, prints = wanted[1] if wanted else needs, prints or "<!-- prints -->" in token.content
        if token.type not in ("fence", "code_block") or token.map is None:
            continue
        language, where = token.info.strip(), f"{page.relative_to(ROOT)}:{token.map[0] + 1}"
        if needs and needs not in NEEDS:
            raise ValueError(f"{where}: needs {needs!r}; expected one of {', '.join(NEEDS)}")
        if language == "text":
            if prints:
                found[-1] = replace(found[-1], prints=token.content)
        elif (kind := _kind(language)) is None:
            raise ValueError(f"{where}: a block of {language!r}; use bash, console, python, json or text")
        else:
            found.append(Snippet(page, token.map[0] + 1, kind, language, token.content, needs))
        needs, prints = "", False
    return found


def main() -> None:
    """Print how many snippets there are, and which are checked instead of run."""
    found = [snippet for page in pages() for snippet in snippets_of(page)]
    unrun = [snippet for snippet in found if snippet.unrun()]
    print(f"{len(found)} snippets, all tested: {len(found) - len(unrun)} run, {len(unrun)} checked without being run")
    for snippet in unrun:
        print(f"  {snippet}: {snippet.unrun()}")


def _kind(language: str) -> str | None:
    kinds = {"shell": SHELL, "python": PYTHON, "data": DATA}
    return next((kind for kind, languages in kinds.items() if language in languages), None)


if __name__ == "__main__":
    main()
