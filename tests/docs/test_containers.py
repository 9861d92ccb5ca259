"""The containers, as far as they can be held to anything without Docker; `make check` has hadolint for the rest."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from runner import check_command, check_extras
from snippets import ROOT

FOLDER = ROOT / "containers"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))


def services(*names: str) -> dict[str, dict[str, Any]]:
    """What compose makes of several files: later ones replace single keys."""
    merged: dict[str, dict[str, Any]] = {}
    for name in names:
        for service, content in yaml.safe_load((FOLDER / name).read_text())["services"].items():
            merged[service] = merged.get(service, {}) | content
    return merged


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")], ids=["cpu", "gpu"])
def test_compose_grants_nothing_and_its_commands_are_understood(names: tuple[str, ...]) -> None:
    found = services(*names)
    assert list(found) == ["fetch", "convert", "serve"]
    for service in found.values():
        assert service["read_only"]
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        check_command(["calib8", *shlex.split(service["command"])])
    assert found["convert"]["network_mode"] == "none"
    assert "/health" in found["serve"]["healthcheck"]["test"][-1]
    compile(found["serve"]["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert found["serve"]["ports"] == ["127.0.0.1:8000:8000"]  # no key is asked for


def test_what_is_served_is_what_was_made() -> None:
    for names in (("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")):
        found = services(*names)
        made = shlex.split(found["convert"]["command"])
        folder = made[made.index("-o") + 1]
        served = shlex.split(found["serve"]["command"])[1]
        assert served in (f"{folder}/model.int8.onnx", f"{folder}/{Path(folder).name}-int8.engine")
        assert ("--no-engine" in made) == served.endswith(".onnx")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_from_a_version_and_has_what_it_copies(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.search(r":\S*\d+\.\d+", base.replace("${TENSORRT}", "25.12")) for base in bases)
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["10001:10001"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    extras = re.findall(r"'(\.\[.+?\])'", text)
    assert extras
    check_extras(["pip", "install", *extras])
