"""The operating system's permissions for a test that runs as root, whom it would let through."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

#: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of linux/capability.h, as bits.
ANY_FILE = 0b110
VERSION_3 = 0x20080522


@contextmanager
def permissions_hold() -> Iterator[None]:
    """Within the body this thread may read and write only what its user may: root gives up its way around that."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may do anything here, and only Linux lets it give that up")
    libc = ctypes.CDLL(None, use_errno=True)
    header, had = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, had) == 0
    fewer = (ctypes.c_uint32 * 6)(*had)
    fewer[0] &= ~ANY_FILE
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, had) == 0
