"""256 names that do something to a terminal, or to a program that takes text for markup."""

import unicodedata

#: What no terminal, log or page may get as it is: control, format, halves of surrogate pairs, separators.
FORBIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")

CONTROLS = [f"op{chr(code)}x" for code in (*range(1, 0x20), *range(0x7F, 0xA0))]
SEQUENCES = [
    "\x1b[2J", "\x1b[H\x1b[J", "\x1b[31mred", "\x1b[1A\x1b[2K", "\x1b[?1049h", "\x1b[6n", "\x1b[c", "\x1bc", "\x1b7",
    "\x1b[3J", "\x1b[8;1;1t", "\x1b[20l", "\x1b[?25l", "\x1b(0", "\x1b#8", "\x1b[!p", "\x9b2J", "\x9b31m",
    "\x1b]0;title\x07", "\x1b]2;title\x1b\\", "\x9d0;title\x9c", "\x1b]8;;https://example.com\x1b\\text\x1b]8;;\x1b\\",
    "\x1b]8;;file:///etc/passwd\x07here\x1b]8;;\x07", "\x1b]52;c;cm0gLXJmIC8=\x07", "\x1b]52;p;?\x1b\\",
    "\x1b]1337;File=inline=1:AAAA\x07", "\x1b]777;notify;a;b\x07", "\x1b]4;1;rgb:ff/ff/ff\x07", "\x1b]104\x07",
    "\x1bP+q544e\x1b\\", "\x1bP$qm\x1b\\", "\x90q\x9c", "\x1b_Gf=24;AAAA\x1b\\", "\x1b^private\x1b\\",
    "\x1bXstring\x1b\\",
]  # fmt: skip
UNSEEN = [
    f"op{chr(code)}x"
    for code in (
        0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2060, 0x2065),
        *range(0x2066, 0x2070), 0xFEFF, 0xFFF9, 0xFFFA, 0xFFFB, 0xE0001, 0xE0020, 0xE0041, 0xE007F,
    )
]  # fmt: skip
MARKUP = [
    "[red]op[/red]", "[/]", "[bold", "[link=https://example.com]op[/link]", "[link]", ":smile:", ":warning:",
    "[@click=x]op", "[blink]op", "\\[red]", "[[red]]", "[on red]  ", "<b>op</b>", "<script>1</script>", "{{ 1 }}",
    "{% raw %}", "{name}", "%s%n", "&lt;", "$HOME", "`id`", "--json", "-o", "~", "*", "a'b\"c",
]  # fmt: skip
LINES = [
    "a\nerror: forged", "a\r\nPASSED", "\rPASSED", "a\nb\nc", "\n", "\n\n\n", "a\x0bb", "a\x0cb", "a\x85b", "a\u2028b",
    "a\u2029PASSED", "\b\b\b\bok", "a\tb",
]  # fmt: skip
FLOODS = [
    "Z" + "\u0301" * 500, "e\u0300\u0316" * 200, "x" * 10_000, "\x1b[31m" * 2_000, "\u202e" * 10_000, "[red]" * 2_000,
    "\n" * 10_000, "\u200b" * 10_000, "\U0001f600" * 3_000, "\u4e00" * 10_000,
]  # fmt: skip
SURROGATES = [f"op{chr(code)}x" for code in (0xD800, 0xDBFF, 0xDC00, 0xDC1B, 0xDC80, 0xDC9B, 0xDCFF, 0xDFFF)]
PAIRS = [f"{a}/{b}" for a, b in zip(SEQUENCES[:26], reversed(MARKUP), strict=True)]

MIXED = [f"{a}{b}" for a, b in zip(UNSEEN[:36], CONTROLS[:36], strict=True)]

NAMES = (*CONTROLS, *SEQUENCES, *UNSEEN, *MARKUP, *LINES, *FLOODS, *SURROGATES, *PAIRS, *MIXED)
#: Those that protobuf and JSON in UTF-8 can hold.
TEXTS = tuple(name for name in NAMES if not any("\ud800" <= one <= "\udfff" for one in name))


def forbidden(text: str, breaks: str = "\n") -> set[str]:
    """The characters of ``text`` that should not be there."""
    return {one for one in set(text) if one not in breaks and unicodedata.category(one) in FORBIDDEN}
