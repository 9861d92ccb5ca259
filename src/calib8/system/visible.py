"""Text from anywhere as characters that can be seen: what a name holds must not reach the terminal as a command.

A name in a file can hold whatever its author likes. Control characters move the cursor, set the title, link or fill the
clipboard (ECMA-48, and xterm's OSC 8 and 52); others reverse what follows, or cannot be seen (Unicode TR 36, 3.1).
"""

import json
import unicodedata
from collections.abc import Callable

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
