"""Break everything while the plant works: is a window lost, a command run twice, a state left half?

    python -m benchmarks.chaos --phases --json

``--phases`` cuts a forget short at every change that the agent makes to its disk (``benchmarks/phases.py``): killed
before it, killed after it, and with an error at it and all later ones. ``--step`` takes every n-th change only. One
JSON object comes last: cuts (in all), by_phase, changes (of a forget that goes through), half_states, problems.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import phases
from benchmarks.machine import facts


def cut_phases(step: int) -> dict[str, Any]:
    """Cut forgets short; the figures."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-agent-chaos-") as folder:
        tally = phases.cut_everywhere(Path(folder), step)
    return {
        "cuts": tally.cuts.total(),
        "by_phase": dict(sorted(tally.cuts.items())),
        "changes": tally.changes,
        "half_states": len(tally.problems),
        "problems": tally.problems,
        "seconds": round(time.monotonic() - started_s, 1),
        **facts(),
    }


def main() -> None:
    """Break things, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", action="store_true", required=True, help="cut a forget short at every change")
    parser.add_argument("--step", type=int, default=1, help="every n-th change only")
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    options = parser.parse_args()
    figures = cut_phases(options.step)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:12s} {value}")


if __name__ == "__main__":
    main()
