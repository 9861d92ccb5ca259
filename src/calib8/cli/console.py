"""What a person sees while work goes on: progress on stderr, results on stdout."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

#: Results: what a pipe should carry.
out = Console(highlight=False, soft_wrap=True)
#: Progress, notes and errors.
err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Done(MofNCompleteColumn):
    """``7/56``, or ``12%`` of what is told as a share."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.percentage:.0f}%") if task.total == 1 else super().render(task)


class ConsoleProgress:
    """Draws ``Progress`` as bars in a terminal, and as one line per finished stage where stderr is no terminal.

    Use it in a ``with`` block. If ``quiet``, it says nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._started: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Done(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=quiet or not err.is_terminal,
        )

    def update(self, stage: str, done: float, total: float | None) -> None:
        """See ``calib8.progress.Progress``."""
        start = self._started.setdefault(stage, time.perf_counter())
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)
        if total is not None and done >= total:
            if not self.quiet and not err.is_terminal:
                many = "" if total == 1 else f"{total:,.0f} "
                err.print(f"{stage}: {many}done in {time.perf_counter() - start:.1f} s", markup=False)
            del self._started[stage], self._tasks[stage]

    def note(self, message: str) -> None:
        """See ``calib8.progress.Progress``."""
        if not self.quiet:
            self._bars.console.print(message, style="dim", markup=False)

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if kind in (KeyboardInterrupt, SystemExit):  # Ctrl-C, which typer turns into exit code 130, or SIGTERM
            err.print("interrupted; nothing half-written was left behind", style="red")
