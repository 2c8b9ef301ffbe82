"""The process's memory, kept flat over months: freed memory goes back to the system, and threads share one heap.

After a burst of windows glibc keeps what they took (37 kB each, below the size that it maps apart), so that a process
which serves for months would sit at the highest mark it ever reached. And it gives threads heaps of their own: what one
thread allocates and another frees leaves pages in them that no trimming reaches, some 1.5 MiB in each hour of serving.
Since Python lets one thread run at a time, threads have no use for them.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_ARENA_MAX: Final = -8  # M_ARENA_MAX of mallopt(3)


def share() -> None:
    """Let all threads that are yet to come share one heap; nothing where the C library has no such call."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_ARENA_MAX, 1)


def settle() -> None:
    """Leave all that the start has made out of every later garbage collection.

    Modules, schemas and models stay to the end. Walking through their 60,000 objects took 30 ms each time, in which no
    window was answered.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Trim the heap (malloc_trim(3)); nothing where the C library has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
