"""Runs a target on mutated inputs, and keeps what went wrong.

The rule: whatever the bytes, a parser takes them or raises an error of calib8's own, within bounded memory and time.
"""

import logging
import random
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from mutations import Mutation, of_bytes

from calib8.errors import Calib8Error

#: CPU seconds that one input may take, and memory that a campaign may take in addition to what the process has.
SLOW = 5.0
MEMORY = 768 << 20
#: Inputs that are kept besides the seeds, because they led to an answer that had not been seen.
KEPT = 300


@dataclass(frozen=True)
class Target:
    """A parser under test. ``run`` is given bytes, and a folder of its own for the files that it makes of them."""

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], object]
    mutation: Mutation = of_bytes
    #: How many inputs it gets where a cheap one gets 100.
    share: int = 100


@dataclass(frozen=True)
class Finding:
    """What a foreign error said, and the first input that led to it."""

    message: str
    data: bytes


@dataclass
class Outcome:
    """What a campaign did; ``findings`` are by the place in the code that the error came through."""

    target: str
    executions: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)


class _TooSlow(BaseException):
    """Past every ``except Exception``."""


def campaign(target: Target, folder: Path, *, executions: int, seed: int = 0, seconds: float = float("inf")) -> Outcome:
    """Run ``target`` on its seeds and then on mutated inputs, the same ones for the same ``seed``.

    No input is begun after so many ``seconds`` of the CPU, whatever else the machine does. While an input is run it
    lies in ``folder/current``, for the case that it takes the process with it.
    """
    chance = random.Random(f"{target.name} {seed}")
    corpus = target.seeds()
    seeds, answers = len(corpus), set()
    outcome = Outcome(target.name)
    begin, used = time.monotonic(), time.process_time()
    with bounded():
        while outcome.executions < executions and time.process_time() - used < seconds:
            number = outcome.executions
            data = corpus[number] if number < seeds else _mutated(target, chance, corpus, seeds)
            answer = execute(target, data, folder, outcome)
            if answer not in answers and number >= seeds and len(corpus) < seeds + KEPT:
                corpus.append(data)
            answers.add(answer)
    outcome.seconds = time.monotonic() - begin
    return outcome


def execute(target: Target, data: bytes, folder: Path, outcome: Outcome) -> int:
    """Run one input and count it. Returns what stands for the answer: the error without its numbers, or acceptance."""
    outcome.executions += 1
    (folder / "current").write_bytes(data)
    try:
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        try:
            target.run(data, folder)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except Calib8Error as error:
        outcome.refused += 1
        return _kind(str(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Rust panics and our own alarm are no Exceptions
        outcome.findings.setdefault(_place(error), Finding(str(error), data))
        return 0
    outcome.accepted += 1
    return 1


@contextmanager
def bounded() -> Iterator[None]:
    """An alarm for what is slow, and an end to memory: what exceeds it gets a ``MemoryError``."""

    def too_slow(*_: object) -> None:
        raise _TooSlow(f"took more than {SLOW} s of CPU")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    logging.disable()  # onnx_ir tells of every flaw in a model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def _mutated(target: Target, chance: random.Random, corpus: list[bytes], seeds: int) -> bytes:
    mutation = target.mutation if chance.random() < 0.7 else of_bytes
    return mutation(chance, chance.choice(chance.choice((corpus, corpus[:seeds]))), corpus)


def _kind(message: str) -> int:
    return crc32("".join(letter for letter in message if letter.isalpha()).encode()[:120]) | 2


def _place(error: BaseException) -> str:
    """``KeyError in parse (cache.py:90)``: the innermost line of calib8 that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if "/calib8/" in frame.filename or "/fuzz/" in frame.filename][-1]
    return f"{type(error).__name__} in {last.name} ({Path(last.filename).name}:{last.lineno})"
