"""What the wheel and the source archive are made of; `make dist` builds them and tests the wheel."""

from pathlib import Path

import pytest

import calib8

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or later reads pyproject.toml")
SOURCE = Path(calib8.__file__).parent
ROOT = Path(__file__).parents[2]


def test_the_wheel_gets_every_file_that_is_no_python() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    named = {path for pattern in settings["package-data"]["calib8"] for path in SOURCE.glob(pattern)}
    others = {path for path in SOURCE.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert SOURCE / "py.typed" in others
    assert named == others
    assert {path.parent.name for path in others} == {"calib8", "page"}


def test_every_package_of_the_source_has_an_init() -> None:
    """A folder without one would be left out of the wheel."""
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert len(folders) > 20
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
