"""Hot swaps under load, a few of them; ``benchmarks.swaps`` makes as many as one likes, and looks at memory too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import swaps
from benchmarks.speed.figures import Figure
from benchmarks.speed.plan import Plan, say

PART: Final = "swaps"
QUANTITIES: Final = ("lost", "swap_longest_ms", "swaps_longest_ms", "usual_longest_ms", "usuals_longest_ms")


def measure(plan: Plan, _: Path) -> Iterator[Figure]:
    """Of the packaged release, width 16: some swaps with a full cache, and as long stretches without one."""
    found = swaps.swap(4) if plan.quick else swaps.swap(10)
    more_ms = found["swaps_longest_ms"] - found["usuals_longest_ms"]
    say(f"{found['swaps']} swaps: the longest answer {more_ms:+.1f} ms to that without, {found['lost']} windows lost")
    for quantity in QUANTITIES:
        yield Figure(PART, "agent", "width 16", quantity, float(found[quantity]))
