"""Fixtures that several test files share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from calib8.passes.prepare import prepare
from calib8.telemetry import silence
from calib8.testing import tiny_encoder

silence()  # tests import ONNX Runtime by themselves, too

# Ray kills and retries work for ever while the machine is short of memory, whoever takes it. Its workers, at nice 15,
# would wait for all other tests.
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_worker_niceness", "0")

# Other work on the machine must not fail a test, see CONTRIBUTING.md on speed.
settings.register_profile("calib8", deadline=None)
settings.load_profile("calib8")

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "b", "c", "d", "e"]


class Notes:
    """A ``Progress`` that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float | None]] = []
        self.messages: list[str] = []

    def update(self, stage: str, done: float, total: float | None) -> None:
        self.steps.append((stage, done, total))

    def note(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive() -> Iterator[None]:
    """A background job of a shell starts with SIGINT ignored; tests of Ctrl-C raise it for real."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def patient_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a console tells of work after a second would depend on how fast the machine is."""
    monkeypatch.setattr("calib8.console.FIRST", 60.0)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def encoder() -> ir.Model:
    return prepare(tiny_encoder())


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A tokenizer that knows the words a to e: ``<s>`` is 1, ``</s>`` 2, ``<unk>`` 3, ``a`` 4."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
