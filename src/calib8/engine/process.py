"""Run one build in a worker process and collect what it says."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calib8.console import visible_lines
from calib8.errors import SetupError
from calib8.gpu.visible import VISIBLE
from calib8.progress import Progress

#: The worker imports from where this process does; -I keeps the working folder and the environment out of that.
WORKER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from calib8.engine.worker import main; main()"


@dataclass
class BuildLog:
    """Everything TensorRT said during one build: ``(severity, text)``, severities as in ``ILogger.Severity``."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def messages(self) -> list[str]:
        """The texts, oldest first."""
        return [text for _, text in self.lines]

    def errors(self) -> list[str]:
        """The texts of errors, without the complaints of the CUDA runtime on a machine without a GPU."""
        texts = [text for severity, text in self.lines if severity in ("ERROR", "INTERNAL_ERROR")]
        return [text for text in dict.fromkeys(map(without_cuda_noise, texts)) if text]

    def __str__(self) -> str:
        return "".join(f"[{severity}] {visible_lines(text)}\n" for severity, text in self.lines)


@dataclass
class Outcome:
    """How a worker ended."""

    log: BuildLog
    exit_code: int
    #: ``{seconds, tensors}`` if it built.
    built: dict[str, Any] | None = None
    #: What the engine's inspector tells of its kernels, as JSON; "" where the engine could not be loaded.
    layers: str = ""
    #: Whether a model that was only to be parsed was.
    parsed: bool = False
    #: TensorRT's reasons if it refused; may be empty.
    refused: list[str] | None = None


def without_cuda_noise(text: str) -> str:
    """``text`` without the lines in which a machine without a GPU is reported."""
    return "\n".join(line for line in text.splitlines() if "catchCudaError" not in line)


def run_worker(request: Mapping[str, Any], progress: Progress, visible: str | None = None) -> Outcome:
    """Build in a child process, which sees the GPUs that ``visible`` names, all by default.

    See ``worker`` for the request, and ``CUDA_VISIBLE_DEVICES`` for names.

    Whatever interrupts this call, such as Ctrl-C or an exception of ``progress``, kills the child and goes on.
    Raises ``OSError`` if the child could not write the engine, ``SetupError`` if this machine lacks something else.
    """
    log = BuildLog()
    outcome = Outcome(log, 0)
    with tempfile.TemporaryFile() as printed:
        with _start(printed.fileno(), visible) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code tells
                    process.stdin.write(json.dumps(request))
                    process.stdin.close()
                for line in process.stdout:
                    if line.endswith("\n"):  # else it was killed while it wrote
                        _receive(json.loads(line), outcome, progress)
                outcome.exit_code = process.wait()
            except BaseException:
                process.kill()
                raise
        printed.seek(0)
        log.lines += [("PRINTED", line) for line in printed.read().decode("utf-8", "replace").splitlines()]
    return outcome


def _start(stderr: int, visible: str | None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-I", "-c", WORKER, json.dumps([str(entry) for entry in sys.path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        encoding="utf-8",
        env=None if visible is None else {**os.environ, VISIBLE: visible},
    )


def _receive(event: list[Any], outcome: Outcome, progress: Progress) -> None:
    kind, *content = event
    if kind == "log":
        outcome.log.lines.append((content[0], content[1]))
    elif kind == "progress":
        progress.update(*content)
    elif kind == "note":
        progress.note(content[0])
    elif kind == "built":
        outcome.built = content[0]
    elif kind == "parsed":
        outcome.parsed = True
    elif kind == "layers":
        outcome.layers = content[0]
    elif kind == "failed":
        outcome.refused = content[0]
    elif kind == "setup":
        raise SetupError(content[0])
    else:
        raise OSError(*content)
