"""Connections to Ray: an address where no cluster is, and what Ray writes meanwhile."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from calib8.cluster import session
from calib8.errors import SetupError

NOTHING = r": nothing listens there \(.*refused.*\)\. Start a cluster with `ray start --head` and give 'auto' or its"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a cluster of this machine nor what is left of one is found."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def answering() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens(scheme: str, closed: str) -> None:
    with pytest.raises(SetupError, match=f"could not connect to Ray at '{scheme}{closed}'{NOTHING}"):
        session._require_answer(scheme + closed)


def test_auto_names_what_it_stands_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed: str) -> None:
    (left := tmp_path / "ray" / "ray_current_cluster").parent.mkdir()
    left.write_text(closed)  # as the last cluster left it
    with pytest.raises(SetupError, match=re.escape(f"at 'auto' ({closed}, from {left})") + NOTHING):
        session._require_answer("auto")
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(SetupError, match=re.escape(f"at 'auto' ({closed}, from RAY_ADDRESS)") + NOTHING):
        session._require_answer("auto")


@pytest.mark.parametrize("address", ["local", "auto", "nonsense", "host:port", "{answering}", "ray://{answering}"])
def test_what_answers_and_what_has_no_address_is_left_to_ray(
    address: str, answering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    connect = socket.create_connection

    def connection(where: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(f"{where[0]}:{where[1]}")
        return connect(where, timeout=timeout)

    monkeypatch.setattr(socket, "create_connection", connection)
    session._require_answer(address.format(answering=answering))
    assert tried == ([answering] if "answering" in address else [])


def test_a_host_that_is_silent_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, timeout: float) -> None:
        assert timeout <= 10
        raise TimeoutError("timed out")

    with pytest.raises(SetupError, match="nothing listens there"):
        session._require_answer("127.0.0.1:99999")
    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(SetupError, match=r"'10.0.0.9:6379': nothing listens there \(timed out\)"):
        session._require_answer("10.0.0.9:6379")


def test_what_ray_says_of_its_log_level_is_left_out_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    @session._without_line(session.SAID)
    def fails() -> None:
        os.write(2, b"[2026-11-29 I 1 1] logging.cc:303: " + session.SAID + b" RAY_BACKEND_LOG_LEVEL to 3\nan error\n")
        raise SetupError

    with pytest.raises(SetupError):
        fails()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "an error\nafterwards\n"
