"""What a person sees: progress on stderr, results on stdout, both in a log if one is kept, and text from anywhere as
characters that can be seen.

A name in a file can hold whatever its author likes, and none of it must reach the terminal as a command. Control
characters move the cursor, set the title, link or fill the clipboard (ECMA-48, xterm's OSC 8 and 52); others reverse
what follows, or cannot be seen (Unicode TR 36, 3.1).
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich import console as rich_console
from rich.control import Control
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

#: Unicode's categories of characters that do something in the place of being seen: control, format (the order of
#: writing, zero width), halves of surrogate pairs, and the separators of lines and paragraphs.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str) -> str:
    r"""``text`` with every such character as its escape, ``\n`` and ``\x1b`` and ``\u202e``; all on one line."""
    return _escaped(text, lambda character: character.encode("unicode_escape").decode("ascii"))


def visible_lines(text: str) -> str:
    """``text`` of a program that ends its lines itself: as ``visible``, but for these ends."""
    return "\n".join(map(visible, text.split("\n")))


def visible_json(text: str) -> str:
    r"""A JSON document with every such character in its strings as ``\u`` escape: the same document."""
    kept = "\n"  # only between values, since JSON escapes it in a string
    return kept.join(_escaped(line, lambda character: json.dumps(character)[1:-1]) for line in text.split(kept))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():  # nearly always
        return text
    return "".join(escape(one) if unicodedata.category(one) in UNSEEN else one for one in text)


class _Plain(rich_console.Console):
    """Rich's, for text that may come from anywhere: it is shown as it is, and nothing in it does anything.

    A ``str`` is one line, in which "[red]" and ":smile:" mean nothing; a renderable breaks its lines itself. What no
    terminal should get is shown as its escape, see ``visible``, whatever it came in with.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as it is printed, or put into a cell of a table."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: rich_console.RenderableType, options: rich_console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Everything that is printed; rich's own control codes are apart from its text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible_lines(segment.text))


class Log:
    """A file that gets what the consoles print, whether or not anybody sees it, and lines with the time of day."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    @property
    def kept(self) -> bool:
        """Whether there is such a file."""
        return self._file is not None

    def begin(self, path: Path) -> None:
        """Go on with the file, or make it: a run that was killed and its continuation are in one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def close(self) -> None:
        """Keep nothing any more."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # told before
                file.close()

    def add(self, *shown: Any) -> None:
        """A line, or what breaks its lines itself; not the bars of a terminal, which are drawn again and again."""
        if self._file is None or isinstance(shown[0], (Control, rich_console.NewLine)):
            return
        first = f"{time.strftime('%F %T')} {shown[0]}" if isinstance(shown[0], str) else shown[0]
        try:
            _Plain(file=self._file, width=100).print(first, *shown[1:])  # at once: threads tell, too
        except OSError as error:  # the work is worth more than its log
            self.close()
            err.print(f"warning: the log ends here: {error.strerror}")


#: That of the command that runs, if it was asked for one.
log = Log()


class Console(_Plain):
    """What a person looks at."""

    def print(self, *shown: Any, **options: Any) -> None:
        """As rich does, and in the log."""
        super().print(*shown, **options)
        log.add(*shown)


#: Results: what a pipe should carry.
out = Console()
#: Progress, notes and errors.
err = Console(stderr=True)


#: Seconds until the first line about a stage that goes on, until the second, which can say how long it will take, and
#: between further ones, where there is no terminal to draw in.
FIRST, SECOND, INTERVAL = 1.0, 5.0, 30.0
#: What is under way until anything is told.
READY = "get ready"


@dataclass
class _Stage:
    """A stage under way: its bar, when it began and with how much done, how far it is, and when a line is due."""

    task: TaskID
    already: float
    began: float
    due: float
    done: float
    total: float | None


class _Done(ProgressColumn):
    """``7/56``, or ``12%`` of what is told as a share."""

    def render(self, task: Task) -> Text:
        if task.total == 1:
            return Text(f"{task.percentage:.0f}%")
        return Text(_short(task.completed) + (f"/{_short(task.total)}" if task.total is not None else ""))


class _Rate(ProgressColumn):
    """``4.2/s``, nothing for shares."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{_short(rate)}/s" if rate and task.total != 1 else "")


class ConsoleProgress:
    """Draws ``Progress`` as bars in a terminal, and as lines where stderr is none: one as a stage ends, and while it
    goes on one after a second, one after five, and one every 30, even if it tells nothing itself.

    Use it in a ``with`` block. If ``quiet``, it says nothing. Without ``bars`` a terminal gets notes only.
    """

    def __init__(self, *, quiet: bool = False, bars: bool = True) -> None:
        self.quiet = quiet
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._in_lines = not quiet and not err.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            _Done(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=quiet or not bars or not err.is_terminal,
        )

    def update(self, stage: str, done: float, total: float | None) -> None:
        """See ``calib8.progress.Progress``."""
        with self._lock:
            if stage != READY:
                self._forget_ready()
            if stage not in self._stages:
                task, now = self._bars.add_task(visible(stage), total=total, completed=int(done)), time.perf_counter()
                self._stages[stage] = _Stage(task, done, now, now + FIRST, done, total)
            state = self._stages[stage]
            state.done, state.total = done, total
            self._bars.update(state.task, completed=done, total=total)
            if self._in_lines or log.kept:
                self._tell(stage, state)
            if total is not None and done >= total:
                del self._stages[stage]

    def _forget_ready(self) -> None:
        if (ready := self._stages.pop(READY, None)) is not None:
            self._bars.remove_task(ready.task)

    def _tell(self, stage: str, state: _Stage) -> None:
        """A line if the stage is finished, or if one is due."""
        now, done, total = time.perf_counter(), state.done, state.total
        counted, taken = total != 1, now - state.began
        rate = (done - state.already) / max(taken, 1e-9)  # what an earlier run did took no time of this one
        speed = f", {_short(rate)}/s" if counted and rate and taken >= 1 else ""  # too short to tell
        if total is not None and done >= total:
            many = f"{total:,.0f} " if counted else ""
            self._say(f"{stage}: {many}done in {taken:.1f} s{speed}")
        elif now >= state.due:
            state.due = state.began + SECOND if taken < SECOND else now + INTERVAL
            so_far = _short(done) if counted else f"{done:.0%}"
            of = f" of {_short(total)}" if counted and total is not None else ""
            left = f", {_span((total - done) / rate)} left" if total is not None and rate else ""
            self._say(f"{stage} ..." if stage == READY else f"{stage}: {so_far}{of}{speed}{left}")

    def _say(self, line: str) -> None:
        """For the log, and for those who see no bars."""
        (err.print if self._in_lines else log.add)(line)

    def _tell_in_time(self) -> None:
        """Lines about stages that tell nothing for long: a thread's work, until the ``with`` block ends."""
        while not self._ended.wait(FIRST):
            with self._lock:
                for stage, state in self._stages.items():
                    if state.total is not None or stage == READY:  # or it waits for input, perhaps for days
                        self._tell(stage, state)

    def note(self, message: str) -> None:
        """See ``calib8.progress.Progress``."""
        with self._lock:
            self._forget_ready()
        if self.quiet:
            log.add(message)
        else:
            self._bars.console.print(message, style="dim", markup=False)

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        self.update(READY, 0, None)
        if self._in_lines or log.kept:
            threading.Thread(target=self._tell_in_time, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with self._lock:  # no line comes behind what is said next
            self._forget_ready()
            self._stages.clear()
        self._bars.stop()


def _short(number: float) -> str:
    """Four characters or so: ``0.25``, ``4.2``, ``950``, ``12.3k``, ``449M``."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= factor:
            scaled = number / (1e3 if unit == "k" else factor)
            return f"{scaled:.{0 if scaled >= 100 else 1}f}{unit}"
    if number >= 10 or number == int(number):
        return f"{number:.0f}"
    return f"{number:.{1 if number >= 1 else 2}f}"


def _span(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
