"""What is written to the disk in a day is bounded, and counted."""

from __future__ import annotations

import os
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import budget
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import IN_MEMORY, file_system
from edge_agent.budget import DAY_S, HOUR_S, Budget
from edge_agent.core.types import Window
from edge_agent.reservoir import Source
from edge_agent.slots import SlotFile
from edge_agent.vault import Vault


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(st.lists(st.tuples(st.floats(0, 20_000), st.integers(1, 10**8)), max_size=60))
def test_what_is_spent_never_exceeds_the_allowance_by_more_than_one_piece(
    turns: list[tuple[float, int]],
) -> None:
    clock, spent, largest = Hand(), 0, 0
    allowance = Budget(10**9, clock)
    for wait_s, piece in turns:
        clock.now_s += wait_s
        if allowance.left:
            allowance.spend(piece)
            spent, largest = spent + piece, max(largest, piece)
        assert spent <= 10**9 * clock.now_s / DAY_S + largest


def test_an_idle_day_saves_no_more_than_an_hour_of_it() -> None:
    clock = Hand()
    allowance = Budget(24_000, clock)
    clock.now_s = DAY_S
    for _ in range(10):
        assert allowance.left
        allowance.spend(100)
    assert not allowance.left
    clock.now_s += HOUR_S
    assert allowance.left


def test_a_cache_fills_whatever_the_budget_is_and_then_writes_a_day_no_more_than_that(tmp_path: Path) -> None:
    clock, per_day, per_class = Hand(), 100 * PAGESIZE, 8
    allowance = Budget(per_day, clock)
    cache = WindowCache(tmp_path / "cache", Vault(tmp_path), per_class, 1 << 20, 4, allowance, np.random.default_rng(0))
    cache.fit(("hum",), (2, 8))
    taken = 0
    for seq in range(2000):
        clock.now_s = DAY_S * seq / 2000
        samples = np.full((2, 8), seq, np.float32)
        # An unlabelled window is replaced by every labelled one, so that the reservoir does not slow the writes down.
        source = Source.DIAGNOSIS if seq < per_class else Source.SENDER
        taken += cache.offer("hum", Window("m1", "b", seq, 0, None, samples), source)
        if seq + 1 == per_class:
            assert taken == per_class
    assert (taken - per_class) * PAGESIZE <= per_day + 2 * PAGESIZE  # the last may leave a debt
    assert cache.over_budget > 0


@pytest.mark.parametrize("body_bytes", [64, 2048, 4096 - 145, 9 * 1024 * 4])
def test_a_slot_is_charged_with_every_page_that_it_touches(tmp_path: Path, body_bytes: int) -> None:
    """A day at 100 windows/s wrote 2.2 GB where 2.0 were allowed: samples were counted, but pages are written."""
    file = SlotFile(tmp_path, "hum", Vault(tmp_path), 145, body_bytes, 40)
    for slot in range(40):
        start = slot * file.slot_bytes
        assert file.page_bytes(slot) == PAGESIZE * len({at // PAGESIZE for at in range(start, start + file.slot_bytes)})


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel keeps no account of what is written")
def test_the_account_of_the_kernel_grows_by_what_is_written(tmp_path: Path) -> None:
    if file_system(tmp_path) in IN_MEMORY:
        pytest.skip("temporary files lie in memory, of which the kernel keeps no account")
    before = budget.bytes_written()
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    after = budget.bytes_written()
    assert before is not None
    assert after is not None
    assert after - before >= 1 << 20


def test_where_the_kernel_keeps_no_account_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_ACCOUNT", Path("/nowhere"))
    assert budget.bytes_written() is None
