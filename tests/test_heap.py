"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes

import pytest

from tests.scripts import run_script


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library cannot trim its heap")
def test_what_a_burst_of_windows_took_is_given_back() -> None:
    """A process that served for months would have stayed at the highest mark it ever reached."""
    script = """
from pathlib import Path
from edge_agent.adapters import heap

def rss_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

burst = [bytes(37_000) for _ in range(1000)]
full, burst = rss_mib(), burst[::100]
heap.give_back()
print(full - rss_mib())
"""
    assert float(run_script(script)) > 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no arenas")
def test_threads_share_one_heap() -> None:
    """Heaps of the threads' own grew by a MiB and a half in each hour of serving.

    The test once took a library that the kernel had put at such an address for a heap.
    """
    script = """
import threading
from pathlib import Path
from edge_agent.adapters import heap

heap.share()
kept = []
threads = [threading.Thread(target=lambda: kept.extend(bytes(37_000) for _ in range(200))) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
starts, ends = ({int(span[side], 16) for span in spans} for side in (0, 1))
size = 64 << 20  # glibc reserves so much for a thread's heap, at a multiple of it
print(sum(start % size == 0 and start + size in ends for start in starts))
"""
    assert int(run_script(script)) == 0
    assert int(run_script(script.replace("heap.share()", ""))) > 0


def test_a_garbage_collection_leaves_out_what_the_start_has_made() -> None:
    """Each full collection walked through all modules and schemas: no window was answered for 30 ms and more."""
    script = """
import gc, time
import edge_agent.commands.run
from edge_agent.adapters import heap

def collection_s():
    start_s = time.perf_counter()
    gc.collect()
    return time.perf_counter() - start_s

before = min(collection_s() for _ in range(3))
heap.settle()
print(before / min(collection_s() for _ in range(3)))
"""
    assert float(run_script(script)) > 20


def test_the_serving_process_goes_without_rich_and_the_commands_that_print_have_it() -> None:
    """structlog imports rich where it is installed: 4 MiB that nothing of a service draws with."""
    script = "import sys, edge_agent.commands.run; print('rich' in sys.modules); import rich.table"
    assert run_script(script).split() == ["False"]
