"""Every parser of foreign data, on mutated inputs, the same ones every time, and on all that ever failed."""

from pathlib import Path

import pytest
from campaign import Outcome, Target, bounded, campaign, execute
from targets import TARGETS

from calib8.errors import Calib8Error

REGRESSIONS = sorted((Path(__file__).parent / "regressions").iterdir())
BY_NAME = {target.name: target for target in TARGETS}
#: Per target: of an expensive one fewer fit.
EXECUTIONS, SECONDS = 1500, 1.0
#: Too few to say anything, however slow the machine is.
FEWEST = 15


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_the_bytes_only_our_errors_come_out(target: Target, tmp_path: Path) -> None:
    outcome = campaign(target, tmp_path, executions=EXECUTIONS * target.share // 100, seconds=SECONDS)
    assert not outcome.findings
    assert outcome.executions >= FEWEST
    assert outcome.accepted >= 1  # or the target would refuse its own seeds


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_what_once_failed(path: Path, tmp_path: Path) -> None:
    outcome = Outcome(path.name)
    with bounded():
        execute(BY_NAME[path.name.partition(".")[0]], path.read_bytes(), tmp_path, outcome)
    assert not outcome.findings


def _hungry(data: bytes, folder: Path) -> None:
    raise {b"o": Calib8Error, b"k": KeyError, b"s": RecursionError}[data[:1]]("told")


def test_a_campaign_tells_foreign_errors_from_ours(tmp_path: Path) -> None:
    outcome = Outcome("hungry")
    target = Target("hungry", lambda: [], _hungry)
    for data in (b"o", b"o", b"k", b"s"):
        execute(target, data, tmp_path, outcome)
    assert (outcome.executions, outcome.refused, outcome.accepted) == (4, 2, 0)
    assert [place.partition(" ")[0] for place in outcome.findings] == ["KeyError", "RecursionError"]
    assert (tmp_path / "current").read_bytes() == b"s"


def test_what_takes_too_long_or_too_much_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("campaign.SLOW", 0.05)

    def greedy(data: bytes, folder: Path) -> None:
        if data == b"memory":
            bytearray(2 << 30)
        while data == b"time":
            pass

    outcome = Outcome("greedy")
    with bounded():
        for data in (b"fine", b"memory", b"time"):
            execute(Target("greedy", lambda: [], greedy), data, tmp_path, outcome)
    assert outcome.accepted == 1
    assert [place.partition(" ")[0] for place in outcome.findings] == ["MemoryError", "_TooSlow"]


def test_the_same_seed_tries_the_same_inputs(tmp_path: Path) -> None:
    tried: list[bytes] = []
    target = Target("recorded", lambda: [b"TRT"], lambda data, folder: tried.append(data))
    for seed in (1, 1, 2):
        campaign(target, tmp_path, executions=50, seed=seed)
    assert tried[:50] == tried[50:100] != tried[100:]
