"""What open pages cost: windows answered per second at full load, with five event streams read and with none, in turn.

    python -m benchmarks.page --json

All of it shares one machine: broker, agent, page, sender and readers. Keys of the JSON object: per_s_without,
per_s_with (medians over the rounds), with_over_without, pages, rounds, page_rss_mib, events (read in all), lost.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts, show
from benchmarks.stream import Stream, stream
from edge_agent import rig
from edge_agent.commands.demo import packaged_release
from edge_agent.commands.local import LocalPage, free_port, local_gateway

BASE = "edge/bench"
OUTSTANDING = 128  # windows on their way: enough to keep the agent at full load
WARM_UP_S = 5.0
SETTLE_S = 3.0  # until all pages have connected
READER = """
import select, socket, sys
port, count, events, tail = int(sys.argv[1]), int(sys.argv[2]), 0, {}
for _ in range(count):
    link = socket.create_connection(("127.0.0.1", port))
    link.sendall(b"GET /events?asset=machine HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    tail[link] = b""
while True:
    for ready in select.select([sys.stdin, *tail], [], [])[0]:
        if ready is sys.stdin:
            sys.exit(print(events))
        got = ready.recv(1 << 16)
        events += (tail[ready] + got).count(b"event: ")
        tail[ready] = got[-6:]
"""


def measure(pages: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Take turns without and with open pages."""
    samples = [take.samples for take in islice(rig.stream(np.random.default_rng(0)), 256)]
    port, rates, events = free_port(), dict[bool, list[float]](), 0
    with tempfile.TemporaryDirectory(prefix="edge-agent-page-") as name, packaged_release() as release:
        (Path(name) / "token").write_text("bench")
        extra = LocalPage.settings(port, Path(name) / "token")
        with local_gateway(Path(name), "bench", release, extra) as (broker, agent):
            page = LocalPage(agent, port)
            try:
                with stream(broker.port, BASE, rig.RATE_HZ, "m/s^2") as link:
                    full(link, samples, WARM_UP_S)
                    for number in range(2 * rounds):
                        open_ones = pages * (number % 4 in (1, 2))  # without, with, with, without: drift evens out
                        with readers(page.url, open_ones) as count:
                            full(link, samples, SETTLE_S)
                            rates.setdefault(open_ones > 0, []).append(full(link, samples, seconds))
                        events += count[0]
                    link.settle(30)
                    lost = link.record.lost()
                rss = Path(f"/proc/{page.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]
            finally:
                page.stop()
    without, with_pages = (statistics.median(rates[key]) for key in (False, True))
    return {
        "per_s_without": round(without, 1),
        "per_s_with": round(with_pages, 1),
        "with_over_without": round(with_pages / without, 3),
        "pages": pages,
        "rounds": rounds,
        "page_rss_mib": round(int(rss) / 1024, 1),
        "events": events,
        "lost": lost,
    }


def full(link: Stream, samples: list[Any], seconds: float) -> float:
    """Keep the agent at full load; returns the answers per second."""
    started_s, before = time.monotonic(), len(link.record.answers)
    while (passed_s := time.monotonic() - started_s) < seconds:
        if len(link.record.sent) - len(link.record.answers) < OUTSTANDING:
            link.send(0, samples[len(link.record.sent) % len(samples)], "load")
        else:
            time.sleep(0.0005)
    return (len(link.record.answers) - before) / passed_s


@contextmanager
def readers(url: str, count: int) -> Iterator[list[int]]:
    """So many event streams, read by one light process, for browsers are elsewhere; at the end, how many came."""
    command = [sys.executable, "-I", "-c", READER, url.split(":")[2].strip("/"), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    events: list[int] = []
    try:
        yield events
    finally:
        out, _ = process.communicate()  # the end of its input ends it
        events.append(int(out))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    show({**facts(), **measure(options.pages, options.rounds, options.seconds)}, as_json=options.json)


if __name__ == "__main__":
    main()
