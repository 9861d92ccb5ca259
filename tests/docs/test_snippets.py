"""Every command and snippet of README.md and docs/ works, as it stands there."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from runner import PageRun, inside
from sandbox import SANDBOXES, fetched
from snippets import ROOT, Snippet, pages, sandbox_of, snippets_of

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

PAGES = [page for page in pages() if snippets_of(page)]


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a sandbox -> its folder, made once."""

    @cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        SANDBOXES[name](folder)
        return folder

    return made


@pytest.fixture(scope="session")
def tested() -> list[Snippet]:
    """Filled by the test of each page."""
    return []


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(
    page: Path, sandbox: Callable[[str], Path], tmp_path: Path, tested: list[Snippet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))  # not the user's
    with inside(sandbox(sandbox_of(page)), tmp_path / "page"), PageRun(fetched) as run:
        for snippet in snippets_of(page):
            try:
                run.do(snippet)
            except Exception as error:
                raise AssertionError(f"{snippet}: {error}\n{snippet.code}") from error
            tested.append(snippet)


def test_as_many_snippets_are_tested_as_there_are(tested: list[Snippet]) -> None:
    """Counted without the parser that finds them. Runs after the pages."""
    if {snippet.page for snippet in tested} != set(PAGES):
        pytest.skip("not all pages were tested: some failed or were not selected")
    assert len(tested) == sum(map(blocks, PAGES))
    assert sum(not snippet.unrun() for snippet in tested) > len(tested) / 2


def blocks(page: Path) -> int:
    """Indented blocks and fences of a page but ```text, by regular expressions."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w*)\n.*?^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return sum(language != "text" for language in fences) + len(re.findall(r"(?:\A|\n)\n(?: {4}.*\n)+", rest))


#: What a page that begins with an empty machine says before a block that was not run on a machine without a GPU.
ELSEWHERE = re.compile(r"\*(Run on an H200|Run by nobody yet|The rest was run by nobody yet)")
#: What tests/docs/transcript.py printed of these pages.
TRANSCRIPT = max((ROOT / "bench" / "results").glob("*-start.txt"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "start"], ids=lambda page: page.stem)
def test_a_page_to_start_from_was_followed_or_says_that_it_was_not(page: Path) -> None:
    """Each command stands in the transcript, and ended well, or below a line that says where it was run."""
    own = TRANSCRIPT.read_text(encoding="utf-8").split(f"== docs/start/{page.name}\n")[1].split("\n== ")[0]
    worked = set(re.findall(r"^\$ (.+)\n(?:(?!\$ |# ).*\n)*# exit code 0,", own, re.MULTILINE))
    lines = page.read_text(encoding="utf-8").splitlines()
    assert worked
    for snippet in snippets_of(page):
        before = lines[: snippet.line]
        section = before[max(number for number, line in enumerate(before) if line.startswith("#")) :]
        said = any(map(ELSEWHERE.search, section))
        assert said or worked.issuperset(snippet.commands()), f"{snippet}: say whether this was run, and where"


@pytest.mark.parametrize(
    ("text", "problem"),
    [("```sql\nselect 1\n```\n", "a block of 'sql'"), ("<!-- needs: luck -->\n\n    calib8 doctor\n", "needs 'luck'")],
)
def test_a_block_that_nobody_would_test_is_refused(text: str, problem: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("snippets.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=problem):
        snippets_of(tmp_path / "page.md")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("calib8 doctor --no-such", "shell"),
        ("calib8 quantise x", "shell"),
        ("python bench/throughput.py --no-such", "shell"),
        ("python bench/no_such.py", "shell"),
        ("make no-such", "shell"),
        ("pip install 'calib8[no-such]'", "shell"),
        ("import calib8\ncalib8.no_such()", "python"),
        ("import calib8\ncalib8.Verify(no_such=1)", "python"),
    ],
)
@pytest.mark.parametrize("needs", ["", "gpu"])
def test_a_wrong_snippet_fails(code: str, kind: str, needs: str) -> None:
    with pytest.raises(Exception, match=r"no.such|quantise|exit code|bench/"), PageRun(fetched) as run:
        run.do(Snippet(ROOT / "page.md", 1, kind, "", code, needs))
