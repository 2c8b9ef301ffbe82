"""What the page costs at full load, in windows answered per second.

    python -m benchmarks.page --json

In turn: without the page's process, with it and no page open, with five event streams that are read, and with five
whose browsers take nothing. All of it shares one machine: broker, agent, page, sender and readers.
Keys of the JSON object: per_s_without, per_s_idle, per_s_reading, per_s_deaf (medians over the rounds),
reading_over_idle, deaf_over_idle, idle_over_without, pages, rounds, page_rss_mib, events (read in all), lost.
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
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts, show
from benchmarks.stream import Stream, stream
from edge_agent import rig
from edge_agent.commands.demo import packaged_release
from edge_agent.commands.local import LocalAgent, LocalPage, free_port, local_gateway

BASE = "edge/bench"
OUTSTANDING = 128  # windows on their way: enough to keep the agent at full load
WARM_UP_S = 5.0
SETTLE_S = 4.0  # until the page listens and all streams are open
TURNS = "without", "idle", "reading", "deaf"
READER = """
import select, socket, sys
port, count, deaf, events, tail = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "deaf", 0, {}
for _ in range(count):
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096 if deaf else 1 << 18)
    link.connect(("127.0.0.1", port))
    link.sendall(b"GET /events?asset=machine HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    tail[link] = b""
while True:
    for ready in select.select([sys.stdin, *([] if deaf else tail)], [], [])[0]:
        if ready is sys.stdin:
            sys.exit(print(events))
        got = ready.recv(1 << 16)
        events += (tail[ready] + got).count(b"event: ")
        tail[ready] = got[-6:]
"""


def measure(pages: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Take turns."""
    samples = [take.samples for take in islice(rig.stream(np.random.default_rng(0)), 256)]
    port, rates, events, rss = free_port(), {turn: list[float]() for turn in TURNS}, 0, 0.0
    with tempfile.TemporaryDirectory(prefix="edge-agent-page-") as name, packaged_release() as release:
        (Path(name) / "token").write_text("bench")
        extra = LocalPage.settings(port, Path(name) / "token")
        with (
            local_gateway(Path(name), "bench", release, extra) as (broker, agent),
            stream(broker.port, BASE, rig.RATE_HZ, "m/s^2") as link,
        ):
            full(link, samples, WARM_UP_S)
            for number in range(rounds):
                for turn in TURNS if number % 2 else reversed(TURNS):  # there and back: drift evens out
                    with opened(turn, pages, agent, port) as about:
                        full(link, samples, SETTLE_S)
                        rates[turn].append(full(link, samples, seconds))
                    events, rss = events + about.events, max(rss, about.rss_mib)
                    print(f"  round {number + 1}  {turn:8s} {rates[turn][-1]:7.0f} per s", file=sys.stderr, flush=True)
            link.settle(30)
            lost = link.record.lost()
    of = {turn: statistics.median(rates[turn]) for turn in TURNS}
    return {
        **{f"per_s_{turn}": round(rate, 1) for turn, rate in of.items()},
        "reading_over_idle": round(of["reading"] / of["idle"], 3),
        "deaf_over_idle": round(of["deaf"] / of["idle"], 3),
        "idle_over_without": round(of["idle"] / of["without"], 3),
        "pages": pages,
        "rounds": rounds,
        "page_rss_mib": round(rss, 1),
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


@dataclass
class About:
    """What came of one turn."""

    events: int = 0
    rss_mib: float = 0.0


@contextmanager
def opened(turn: str, pages: int, agent: LocalAgent, port: int) -> Iterator[About]:
    """The page and so many event streams, held by one light process, for browsers are elsewhere; or nothing of it."""
    about = About()
    if turn == "without":
        yield about
        return
    page = LocalPage(agent, port)
    command = [sys.executable, "-I", "-c", READER, str(port), str(pages if turn != "idle" else 0), turn]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        yield about
        about.rss_mib = page.rss_mib()
    finally:
        out, _ = process.communicate()  # the end of its input ends it
        about.events = int(out)
        page.stop()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    show({**facts(), **measure(options.pages, options.rounds, options.seconds)}, as_json=options.json)


if __name__ == "__main__":
    main()
