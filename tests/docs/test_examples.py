"""The example in the docstring of every public function works, as it stands there."""

import contextlib
import doctest
import inspect
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import check_python, inside
from sandbox import fetched, steps

import calib8

pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")

FUNCTIONS = [name for name in calib8.__all__ if name.islower()]
#: Examples that are checked instead of run: that they compile, and that calib8 has the names and arguments.
UNRUN = {"compare_on_gpu": "needs a GPU that TensorRT runs on"}

RUN = [
    pytest.param(name, marks=pytest.mark.ray if name == "embed_corpus" else ())
    for name in FUNCTIONS
    if name not in UNRUN
]


def examples(name: str) -> list[doctest.Example]:
    """The lines behind ``>>>`` in a docstring."""
    return doctest.DocTestParser().get_examples(inspect.getdoc(getattr(calib8, name)) or "", name)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples name, made once."""
    made = tmp_path_factory.mktemp("steps")
    steps(made)
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
@pytest.mark.parametrize("name", RUN)
def test_example(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB8_CACHE", str(tmp_path / "cache"))  # not the user's
    monkeypatch.setattr("calib8.fetch", without_network)
    client = stopped_once_it_answers() if name == "serve" else contextlib.nullcontext(8000)
    with inside(folder, tmp_path / "folder"), client as port:
        told = ran(name, port)
    assert not told, told


def ran(name: str, port: int) -> str:
    """Run an example; what it printed that is not what it says."""
    found = doctest.DocTest(examples(name), {"calib8": calib8, "np": np, "Path": Path}, name, None, 0, None)
    for example in found.examples:
        example.source = example.source.replace("8000", str(port))
    told: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(found, out=told.append, clear_globs=True)
    return "".join(told)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_a_short_example_that_calls_it(name: str) -> None:
    code = "".join(example.source for example in examples(name))
    assert f"calib8.{name}(" in code
    assert code.count("\n") <= 6
    check_python(code)
    if inspect.signature(getattr(calib8, name)).return_annotation not in (None, "None"):
        assert name in UNRUN or any(example.want for example in examples(name))


def test_an_untrue_example_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        """>>> 1 + 1
        3
        """

    monkeypatch.setattr("calib8.wrong", wrong, raising=False)
    assert "Expected:\n    3\nGot:\n    2" in ran("wrong", 8000)


def without_network(name: str, to: str) -> Path:
    """In the place of ``fetch``: a small model with the files of that one."""
    fetched(name, Path(to))
    return Path(to)


@contextlib.contextmanager
def stopped_once_it_answers() -> Iterator[int]:
    """A free port; who serves there gets SIGTERM, as from an operator, when it has answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    answered: list[Any] = []

    def ask() -> None:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                answered.append(answer.status)
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=ask)
    client.start()
    yield port
    client.join()
    assert answered == [200]
