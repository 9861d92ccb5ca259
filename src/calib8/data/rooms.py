"""Which batches a runtime takes: an engine those of its optimisation profiles, a model of fixed sizes one."""

import math
from typing import NamedTuple, TypeAlias

#: Stands for no bound; TensorRT counts in 32 bits.
LARGEST = 2**31 - 1


class Room(NamedTuple):
    """Batches of so many ``rows`` with so many positions (``length``) each: the least and the most of both."""

    rows: tuple[int, int] = (1, LARGEST)
    length: tuple[int, int] = (1, LARGEST)


Rooms: TypeAlias = tuple[Room, ...]


def most_rows(rooms: Rooms, length: int) -> int:
    """The most rows of that ``length``, which may be padded; 1 if no room is so long: whoever runs it says that."""
    return max((room.rows[1] for room in rooms if length <= room.length[1]), default=1)


def most_unpadded(rooms: Rooms, length: int) -> int:
    """``most_rows`` for whoever adds no position to ``length``."""
    return most_rows(tuple(room for room in rooms if room.length[0] <= length), length)


def taken_length(rooms: Rooms, length: int) -> int:
    """``length``, or the next one that a room takes; itself if no longer one is taken."""
    if any(room.length[0] <= length <= room.length[1] for room in rooms):
        return length
    return min((room.length[0] for room in rooms if room.length[0] > length), default=length)


def filled(rooms: Rooms, rows: int, length: int) -> int:
    """The fewest rows that a room for this very ``length`` takes and that hold ``rows``; these if no room does."""
    enough = [
        max(rows, room.rows[0]) for room in rooms if rows <= room.rows[1] and room.length[0] <= length <= room.length[1]
    ]
    return min(enough, default=rows)


def padded(rooms: Rooms, rows: int, length: int) -> tuple[int, int]:
    """The smallest (rows, length) that a room takes and that holds these; these themselves if no room does."""
    shapes = [
        (max(rows, room.rows[0]), max(length, room.length[0]))
        for room in rooms
        if rows <= room.rows[1] and length <= room.length[1]
    ]
    return min(shapes, key=math.prod, default=(rows, length))
