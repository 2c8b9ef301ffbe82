"""Memory and writes of the serving process over time: windows of the simulated rig at a steady rate.

    python -m benchmarks.soak --minutes 30 --json      # a day: --minutes 1440

Half of the windows carry their class, so that the cache works too. Keys of the JSON object: windows, lost;
rss_start_mib, rss_end_mib, rss_max_mib and slope_mib_per_h (least squares, after the first quarter of an hour, in
which the cache fills, or half of a shorter run); written_mib (to
disks, in all) and written_gb_per_day (after the same time), as Linux counts them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts, show
from benchmarks.stream import Stream, paced, stream
from edge_agent import rig
from edge_agent.budget import DAY_S
from edge_agent.commands.demo import packaged_release
from edge_agent.commands.local import LocalAgent, local_gateway

BASE = "edge/bench"
POOL = 1400  # different windows, sent over and over
SAMPLE_EVERY_S = 10.0
WARM_UP_S, WARM_UP_SHARE = 900.0, 0.5  # until the cache has been full once; at most that share of the time


def soak(minutes: float, per_s: float) -> dict[str, Any]:
    """Run for ``minutes``; memory in MiB, slope in MiB per hour by least squares after the warm-up."""
    takes = list(islice(rig.stream(np.random.default_rng(0)), POOL))
    samples: list[tuple[float, float, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="edge-agent-soak-") as name,
        packaged_release() as release,
        local_gateway(Path(name), "bench", release) as (broker, agent),
    ):
        with stream(broker.port, BASE, rig.RATE_HZ, "m/s^2") as link:
            _feed(link, takes, int(minutes * 60 * per_s), per_s, agent, samples)
            link.settle(60)
        maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
    times, sizes, written = np.array(samples).T
    settled = times >= min(WARM_UP_S, WARM_UP_SHARE * times[-1])
    slope = float(np.polyfit(times[settled] / 3600, sizes[settled], 1)[0]) if settled.sum() > 2 else None
    per_day = float(np.polyfit(times[settled] / DAY_S, written[settled], 1)[0]) if settled.sum() > 2 else None
    return {
        "minutes": minutes,
        "rate": per_s,
        "windows": len(link.record.sent),
        "lost": link.record.lost(),
        "rss_start_mib": round(sizes[0], 1),
        "rss_end_mib": round(sizes[-1], 1),
        "rss_max_mib": round(sizes.max(), 1),
        "slope_mib_per_h": slope and round(slope, 2),
        "written_mib": round(written[-1], 1),
        "written_gb_per_day": per_day and round(per_day * (1 << 20) / 1e9, 3),
        "torch_loaded": "libtorch" in maps,
    }


def _feed(link: Stream, takes: list[rig.Take], count: int, per_s: float, agent: LocalAgent, samples: list[Any]) -> None:
    start_s = time.monotonic()
    for number in paced(count, per_s):
        take = takes[number % len(takes)]
        link.send(number, take.samples, "soak", take.fault_class if number % 2 else None)
        elapsed_s = time.monotonic() - start_s
        if elapsed_s >= len(samples) * SAMPLE_EVERY_S:
            samples.append((elapsed_s, agent.rss_mib(), _written_mib(agent)))
            if len(samples) % 6 == 1:
                print(f"  {elapsed_s:6.0f} s  {samples[-1][1]:.1f} MiB", file=sys.stderr, flush=True)


def _written_mib(agent: LocalAgent) -> float:
    lines = Path(f"/proc/{agent.process.pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:")) / (1 << 20)


def main() -> None:
    """Soak and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="windows per second")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    show({**facts(), **soak(options.minutes, options.rate)}, as_json=options.json)


if __name__ == "__main__":
    main()
