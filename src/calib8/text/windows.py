"""A stream in pieces: those that came together, and the next made while one is used."""

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TypeVar

Item = TypeVar("Item")


#: Characters after which a window ends, however few texts it has: those of long lines together are no small memory.
MOST = 1 << 25


def windows(texts: Iterable[str | None], size: int) -> Iterator[list[str]]:
    """``size`` texts at a time, or fewer at the end, behind ``MOST`` characters, and where None says that no more will
    come for now.
    """
    window: list[str] = []
    characters = 0
    for text in texts:
        if text is not None:
            window.append(text)
            characters += len(text)
        if len(window) == size or characters >= MOST or (text is None and window):
            yield window
            window, characters = [], 0
    if window:
        yield window


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """``items``, each made by another thread while the one before it is used: no more than one is ahead.

    Whoever is interrupted does not wait for that thread, which may itself wait for input that never comes.
    """
    made: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()
    wanted, over = Semaphore(1), False

    def make() -> None:
        try:
            wanted.acquire()
            for item in items:
                made.put((item,))
                wanted.acquire()
                if over:
                    return
            made.put(None)
        except BaseException as error:  # it is raised where the items are used
            made.put(error)

    Thread(target=make, name="calib8-ahead", daemon=True).start()
    try:
        while (found := made.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            wanted.release()
            yield found[0]
    finally:
        over = True
        wanted.release()
