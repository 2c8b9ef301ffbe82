"""Measure how fast the agent is, as ratios in one run.

    python -m benchmarks.speed --json           everything, under twenty minutes; writes results/speed.csv
    python -m benchmarks.speed --quick --json   the smallest width, short; writes nothing
    python -m benchmarks.speed --only serving

The machine should have nothing else to do. Releases of the simulated rig at widths 32 and 64 are trained the first
time, which is not counted; the quick run takes the packaged one, of width 16. Node-RED comes from npm the first time;
without npm it is left out.

Keys of the JSON object: agent_over_bare_loop (the least of the widths, in windows per second), cpu_over_bare_loop (the
greatest), agent_over_node_red (the least), rss_over_node_red; p50_ms, p99_ms and paced_cpu_over_bare_loop at 100
windows/s (width 32), swap_later_ms (how much longer the longest answer around a swap takes than without one),
swap_lost (windows), p99_forget_over_idle (the greatest), throughput_forget_over_idle, forget_over_retrain and
forget_over_delete (the greatest), child_over_idle_torch (peak memory, the greatest), rss_serving_mib (at 100
windows/s), rss_loaded_mib (after full queues, with cache and metrics), ready_s, first_diagnosis_s; int8_speed_up (of
the model, the least), int8_size (of the file, the greatest), int8_acc_change (points of test accuracy, the worst, after
forgetting too), int8_acc_ft (percent of the class's test windows still answered with it), worst_growth_step (cost over
size from one number of assets, channels, samples or cached windows to the next; 1 is linear), seconds (of this run,
without the training).
``--quick`` has them all from width 16.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks import trained
from benchmarks.machine import DATA, facts, show
from benchmarks.speed import (
    breakdown,
    figures,
    forgetting,
    growth,
    node_red,
    retraining,
    serving,
    smaller,
    starting,
    swapping,
)
from benchmarks.speed.figures import Figure, Figures
from benchmarks.speed.load import rig_windows
from benchmarks.speed.plan import Plan, say
from benchmarks.speed.summary import WIDTHS, summary
from edge_agent.commands.data import load_dataset
from edge_agent.commands.demo import packaged_release

PARTS: Final[dict[str, Callable[[Plan, Path], Iterator[Figure]]]] = {
    "serving": serving.measure,
    "starting": starting.measure,
    "swaps": swapping.measure,
    "forgetting": forgetting.measure,
    "retraining": retraining.measure,
    "int8": smaller.measure,
    "breakdown": breakdown.measure,
    "growth": growth.measure,
}


def run(names: Iterable[str], plan: Plan) -> list[Figure]:
    """The figures of some parts."""
    measured = []
    for name in names:
        say(f"{name} ...")
        with tempfile.TemporaryDirectory(prefix="edge-agent-speed-") as folder:
            measured += list(PARTS[name](plan, Path(folder)))
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the smallest width, short, and keep nothing")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=PARTS, help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    if (reason := node_red.why_not()) is not None:
        say(f"Node-RED is left out: {reason}")
    with ExitStack() as stack:
        if options.quick:
            releases = {16: stack.enter_context(packaged_release())}
        else:
            data = load_dataset("rig", DATA, 0)
            releases = {width: trained.release(data, width, 0).folder for width in WIDTHS}
        sizes = (2, 3.0, 1) if options.quick else (3, 10.0, 3)
        plan, started_s = Plan(releases, rig_windows(), *sizes, quick=options.quick), time.monotonic()
        measured = run(options.only or PARTS, plan)
        took_s = round(time.monotonic() - started_s)
    if not options.quick and not options.only:
        figures.save(measured)
        say(f"wrote {figures.SPEED}")
    ratios = summary(Figures(measured)).items()
    numbers = {name: value and float(f"{value:.4g}") for name, value in ratios}
    show({**numbers, "seconds": took_s, **facts()}, as_json=options.json)


if __name__ == "__main__":
    main()
