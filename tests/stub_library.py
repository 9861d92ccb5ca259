"""Shared libraries that have functions and do nothing: what a program needs to be loaded, where there is no compiler.

As the System V ABI describes ELF (gabi.xinuos.com): a header, one loadable segment, and the dynamic section that names
the library and its functions. All functions are the same one, which returns 0.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Sequence

#: ELF's number of a machine, and its code for ``return 0``.
MACHINES = {
    "x86_64": (62, bytes.fromhex("31c0 c3")),  # xor eax, eax; ret
    "aarch64": (183, bytes.fromhex("000080d2 c0035fd6")),  # mov x0, 0; ret
}
HASH, STRINGS, SYMBOLS, STRINGS_SIZE, NAME, END = 4, 5, 6, 10, 14, 0
LOADABLE, DYNAMIC = 1, 2
EXECUTE, WRITE, READ = 1, 2, 4
HEADER, SEGMENT, SYMBOL, ENTRY = 64, 56, 24, 16


def library(name: str, functions: Sequence[str], machine: str = platform.machine()) -> bytes:
    """The file ``name`` (its SONAME, ``libnvinfer.so.10``) with these functions."""
    number, code = MACHINES[machine]
    code = code.ljust(8, b"\0")
    strings = b"\0" + b"".join(text.encode() + b"\0" for text in (name, *functions))
    place = {text: strings.index(f"\0{text}\0".encode()) + 1 for text in (name, *functions)}
    code_at = HEADER + 2 * SEGMENT
    symbols_at = code_at + len(code)
    global_function, first_section = 0x12, 1
    symbols = bytes(SYMBOL) + b"".join(
        struct.pack("<IBBHQQ", place[text], global_function, 0, first_section, code_at, len(code)) for text in functions
    )
    hash_at = symbols_at + len(symbols)
    count = 1 + len(functions)
    hashes = struct.pack(f"<{4 + count}I", 1, count, 1, 0, *range(2, count), 0, 0)  # one bucket: all in one chain
    hashes = hashes.ljust(-(-len(hashes) // 8) * 8, b"\0")
    dynamic_at = hash_at + len(hashes)
    strings_at = dynamic_at + 6 * ENTRY
    end = strings_at + len(strings)
    dynamic = {NAME: place[name], HASH: hash_at, STRINGS: strings_at, SYMBOLS: symbols_at, STRINGS_SIZE: len(strings)}
    entries = b"".join(struct.pack("<QQ", *entry) for entry in [*dynamic.items(), (END, 0)])
    shared, page = 3, 0x1000
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", shared, number, 1, 0, HEADER, 0, 0, HEADER, SEGMENT, 2, 64, 0, 0
    )
    segments = struct.pack("<IIQQQQQQ", LOADABLE, READ | WRITE | EXECUTE, 0, 0, 0, end, end, page) + struct.pack(
        "<IIQQQQQQ", DYNAMIC, READ | WRITE, dynamic_at, dynamic_at, dynamic_at, len(entries), len(entries), 8
    )
    return header + segments + code + symbols + hashes + entries + strings
