"""Hot swaps: memory of the serving process, and how late answers come; two releases take turns under load.

    python -m benchmarks.swaps --count 300 --json

Keys of the JSON object: swaps, rss_before_mib (served for some seconds, not swapped yet), rss_after_mib,
growth_percent, rss_max_mib, cached (labelled windows of all classes, sent first), windows, lost, swap_longest_ms (the
longest time from publish to diagnosis around a swap, the median over the swaps), swaps_longest_ms (of all),
usual_longest_ms and usuals_longest_ms (the same of as long a stretch after each, without a swap).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts, show
from benchmarks.stream import Stream, paced, stream
from benchmarks.toy import twin
from edge_agent import rig
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.commands.demo import packaged_release
from edge_agent.commands.local import LocalAgent, local_gateway
from edge_agent.vault import Vault

BASE = "edge/bench"
RATE_HZ = 200.0  # windows per second
WARM_UP_S = 15.0
SETTLED_S = 0.3  # after ``current`` has moved, the model before is still there for a moment
SWAP_S = 20.0  # a swap that takes longer has failed
CACHED = 512  # windows of each class: a swap must cope with a cache that is full


def swap(count: int, cached: int = CACHED) -> dict[str, Any]:
    """Swap so many times, with so many cached windows of each class."""
    takes = list(islice(rig.stream(np.random.default_rng(0)), 200))
    with tempfile.TemporaryDirectory(prefix="edge-agent-swaps-") as name, packaged_release() as release:
        folder = Path(name)
        with local_gateway(folder, "bench", release) as (broker, agent):
            store = ReleaseStore(agent.state_dir, Vault(agent.state_dir))
            digests = store.add(twin(release, folder / "twin", name="twin")).digest, store.current() or ""
            with stream(broker.port, BASE, rig.RATE_HZ, "m/s^2") as link:
                for label in rig.CLASSES:
                    own = [take.samples for take in takes if take.fault_class == label]
                    link.stock(label, islice(cycle(own), cached))
                sizes = _swapped(count, agent, store, digests, link, [take.samples for take in takes])
                link.settle(60)
                around, usual = ([_longest_ms(link, f"{kind} {n}") for n in range(count)] for kind in ("swap", "usual"))
    return {
        "swaps": count,
        "rss_before_mib": round(sizes[0], 1),
        "rss_after_mib": round(sizes[-1], 1),
        "growth_percent": round(100 * (sizes[-1] / sizes[0] - 1), 1),
        "rss_max_mib": round(max(sizes), 1),
        "cached": sum(sent.part == "stock" for sent in link.record.sent.values()),
        "windows": len(link.record.sent),
        "lost": link.record.lost(),
        "usual_longest_ms": round(statistics.median(usual), 1),
        "usuals_longest_ms": round(max(usual), 1),
        "swap_longest_ms": round(statistics.median(around), 1),
        "swaps_longest_ms": round(max(around), 1),
    }


def _longest_ms(link: Stream, part: str) -> float:
    return 1000 * max(answer.heard_s - sent.sent_s for sent, answer in link.record.of(part))


def _swapped(
    count: int, agent: LocalAgent, store: ReleaseStore, digests: tuple[str, str], link: Stream, windows: list[Any]
) -> list[float]:
    """Memory in MiB before the first swap and after each; after each come as many windows once more, without one.

    The longest of many is longer than that of few: only stretches of one length tell what a swap does.
    """

    def feed(count: int, part: str, until: str | None = None) -> int:
        for number in paced(count, RATE_HZ):
            if until is not None and store.current() == until:
                return number
            link.send(0, windows[len(link.record.sent) % len(windows)], part)
        return count

    feed(round(WARM_UP_S * RATE_HZ), "warm-up")
    sizes = [agent.rss_mib()]
    for number in range(count):
        wanted = digests[number % 2]
        store.want(wanted)
        sent = feed(round(SWAP_S * RATE_HZ), f"swap {number}", until=wanted)
        assert store.current() == wanted, f"swap {number + 1} did not happen"
        sent += feed(round(SETTLED_S * RATE_HZ), f"swap {number}")
        sizes.append(agent.rss_mib())
        feed(sent, f"usual {number}")
        if number % 20 == 19:
            print(f"  {number + 1:4d} swaps  {sizes[-1]:.1f} MiB", file=sys.stderr, flush=True)
    return sizes


def main() -> None:
    """Swap and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    show({**swap(options.count), **facts()}, as_json=options.json)


if __name__ == "__main__":
    main()
