"""The shapes that a server's batches have: few, so that all can be run before anybody waits for one.

A runtime keeps memory and code for every shape that it has seen (OpenVINO about 1.4 MiB on each stream for MPNet) and
takes longer the first time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

#: The shortest length, and lengths between a power of two and the next: more of them save padding, and cost memory and
#: time at the start.
SHORTEST, LENGTHS = 8, 4
#: Sequences of a batch: as many as fit, or a power of this. Those left over are in time for the next, and from about 64
#: positions on a run costs little more for each than a full one.
POWERS_OF = 4


class Shapes:
    """Batches of up to ``budget`` positions, none longer than ``longest``; ``most`` sequences of a length go together.

    Iterating yields each (sequences, length), the largest first.
    """

    def __init__(self, budget: int, longest: int, most: Callable[[int], int]) -> None:
        self._counts = {length: _counts(max(1, min(most(length), budget // length))) for length in _lengths(longest)}
        self._lengths = list(self._counts)

    def padded(self, tokens: int) -> int:
        """The length that a sequence of ``tokens`` is padded to."""
        return self._lengths[bisect_left(self._lengths, tokens)]

    def most(self, length: int) -> int:
        """Sequences of a full batch."""
        return self._counts[length][-1]

    def count(self, available: int, length: int) -> int:
        """How many of ``available`` sequences go into one batch; at least 1."""
        counts = self._counts[length]
        return counts[bisect_right(counts, available) - 1]

    def __len__(self) -> int:
        return sum(map(len, self._counts.values()))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        shapes = [(count, length) for length, counts in self._counts.items() for count in counts]
        return iter(sorted(shapes, key=lambda shape: -shape[0] * shape[1]))


def _lengths(longest: int) -> list[int]:
    """8, 10, ... 16, 20, ... 32, 40, ..., and the longest."""
    octaves = range(SHORTEST.bit_length() - 1, longest.bit_length())
    every = (2**octave * (LENGTHS + step) // LENGTHS for octave in octaves for step in range(LENGTHS))
    return [*(length for length in every if length < longest), longest]


def _counts(full: int) -> list[int]:
    """1, 4, 16, ..., and ``full``."""
    counts = [1]
    while counts[-1] * POWERS_OF < full:
        counts.append(counts[-1] * POWERS_OF)
    return counts if full == 1 else [*counts, full]
