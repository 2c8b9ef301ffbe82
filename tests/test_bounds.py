"""Bounded under load, in short; ``benchmarks.overload``, ``benchmarks.swaps`` and ``benchmarks.soak`` measure it."""

from __future__ import annotations

import gc
from pathlib import Path

from benchmarks import overload, swaps
from benchmarks.stream import stream
from edge_agent.commands.local import LocalBroker


def test_five_times_too_many_windows_are_answered_or_counted_and_a_command_is_heard(tmp_path: Path) -> None:
    figures = overload.overload(tmp_path, seconds=2.0)
    assert figures["unaccounted"] == 0
    assert figures["dropped"] > figures["answered"]
    assert figures["lost"] == 0
    assert figures["refusal_s"] < 5
    assert figures["rss_max_mib"] < figures["rss_before_mib"] + 60


def test_hot_swaps_lose_no_window_and_let_no_memory_run_away() -> None:
    figures = swaps.swap(8, cached=16)
    assert figures["lost"] == 0
    assert figures["windows"] - figures["cached"] > 100
    assert figures["growth_percent"] < 30  # the first swaps fill pools; hundreds are measured, not tested


def test_nothing_is_collected_while_a_benchmark_listens(broker: LocalBroker) -> None:
    """The benchmark's own garbage collections held its ear shut for 222 ms, and answers were taken for late."""
    assert gc.isenabled()
    with stream(broker.port, "edge/bench", 1000.0, "g"):
        assert not gc.isenabled()
    assert gc.isenabled()
