"""Freed memory given back to the system.

After a burst of windows glibc keeps what they took (37 kB each, below the size that it maps apart), so that a process
which serves for months would sit at the highest mark it ever reached.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Trim the heap (malloc_trim(3)); nothing where the C library has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
