"""Break everything while the plant works: is a window lost, a command run twice, a state left half?

    python -m benchmarks.chaos --minutes 10 --json
    python -m benchmarks.chaos --phases --json

``--minutes``: faults one after the other, while windows come and classes are forgotten (``adversity/faults.py``), with
an oracle at the wire between agent and broker that keeps the books (``adversity/oracle.py``). Keys of the JSON object:
faults, by_kind; windows (that the broker took), lost, wrong (answers), repeated (answers beyond the first),
lost_by_broker (with its memory, when it was killed); commands, run_twice; bad_starts (after which no window was
answered within 60 s), half_states.

``--phases`` cuts a forget short at every change that the agent makes to its disk (``adversity/phases.py``): killed
before it, killed after it, and with an error at it and all later ones. ``--step`` takes every n-th change only. One
JSON object comes last: cuts (in all), by_phase, changes (of a forget that goes through), half_states, problems.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.adversity import faults, phases
from benchmarks.machine import facts, show


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


def break_things(minutes: float, episodes: int, malformed: int, seed: int) -> dict[str, Any]:
    """Faults for about so many minutes; the figures."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-agent-chaos-") as folder:
        found = faults.run(Path(folder), minutes, episodes, malformed, seed)
    return {
        "faults": found.by_kind.total(),
        "by_kind": dict(sorted(found.by_kind.items())),
        **found.books,
        "commands": found.commands,
        "run_twice": found.run_twice,
        "bad_starts": found.bad_starts,
        "half_states": found.half_states,
        "problems": found.problems,
        "minutes": minutes,
        "episodes": episodes,
        "malformed_in_a_row": malformed,
        "seconds": round(time.monotonic() - started_s, 1),
        **facts(),
    }


def main() -> None:
    """Break things, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--minutes", type=float, help="about how long things are broken, in all episodes together")
    what.add_argument("--phases", action="store_true", help="cut a forget short at every change")
    parser.add_argument("--episodes", type=int, default=4, help="with --minutes: agents, one after the other")
    parser.add_argument("--malformed", type=int, default=10_000, help="with --minutes: malformed windows in a row")
    parser.add_argument("--seed", type=int, default=0, help="with --minutes: of the first episode")
    parser.add_argument("--step", type=int, default=1, help="with --phases: every n-th change only")
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    options = parser.parse_args()
    if options.phases:
        figures = cut_phases(options.step)
    else:
        figures = break_things(options.minutes, options.episodes, options.malformed, options.seed)
    show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
