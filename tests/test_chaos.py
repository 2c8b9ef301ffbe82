"""Chaos in short; ``benchmarks.chaos`` and ``benchmarks.erasure`` do all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import erasure
from benchmarks.adversity import faults, phases


@pytest.mark.parametrize(("how", "first"), [("before", 9), ("after", 23)])
def test_a_forget_that_is_killed_at_any_change_to_the_disk_leaves_the_old_or_the_new(
    tmp_path: Path, how: str, first: int
) -> None:
    # Two cuts each, to keep the suite short: benchmarks.chaos --phases makes all of them.
    tally = phases.cut_everywhere(tmp_path, step=47, hows=[how], first=first)
    assert tally.problems == []
    assert tally.cuts.total() >= 2
    assert tally.changes > 60  # else the forget was not counted to its end


def test_no_window_is_lost_and_no_command_run_twice_while_everything_breaks(tmp_path: Path) -> None:
    figures = faults.run(tmp_path, minutes=0.6, episodes=1, malformed=500)
    assert figures.problems == []
    assert figures.bad_starts == figures.half_states == figures.run_twice == 0
    assert figures.books["lost"] == figures.books["wrong"] == 0
    assert figures.books["windows"] > 500
    assert figures.by_kind.total() >= 3
    assert figures.commands == 2


def test_a_forensic_search_finds_all_of_a_class_before_it_is_forgotten_and_nothing_afterwards(tmp_path: Path) -> None:
    figures = erasure.search(tmp_path)
    assert figures["found_before"] > erasure.WINDOWS
    assert figures["found"] == figures["found_in_backup"] == figures["keys_found"] == 0
    assert figures["found_in_backup_with_its_keys"] == figures["found_before"]  # what the runbook warns of
    assert figures["keys_destroyed"] == 2
    assert figures["keys_found_before"] == (2 if figures["raw_image"] else 0)
