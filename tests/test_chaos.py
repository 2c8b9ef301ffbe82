"""Chaos in short: a forget is cut at some of its changes to the disk; ``benchmarks.chaos`` cuts all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import phases


@pytest.mark.parametrize(("how", "first"), [("before", 9), ("after", 23)])
def test_a_forget_that_is_killed_at_any_change_to_the_disk_leaves_the_old_or_the_new(
    tmp_path: Path, how: str, first: int
) -> None:
    tally = phases.cut_everywhere(tmp_path, step=31, hows=[how], first=first)
    assert tally.problems == []
    assert tally.cuts.total() >= 2
    assert tally.changes > 60  # else the forget was not counted to its end
