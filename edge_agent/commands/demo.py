"""``edge-agent demo``: the whole story on this machine in two minutes.

A broker, a real agent process and the simulated rig; then one class is forgotten while windows keep coming, and a
table shows what the published diagnoses say. The exit code is 0 only if they show that it worked.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent import rig
from edge_agent.commands.client import ToolClient, connected
from edge_agent.commands.local import LocalAgent, LocalBroker, LocalPage, free_port
from edge_agent.commands.show import bars
from edge_agent.core.errors import EdgeAgentError
from edge_agent.core.types import Window
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.schemas.messages import TERMINAL
from edge_agent.schemas.topics import Topics
from edge_agent.schemas.windows import encode

BASE, ASSET, BOOT = "edge/demo", "rig-1", "demo"
FORGET = "IF-1"
WINDOWS_PER_S = 60.0
COMPARED = 700  # windows, classes in turn, that are sent before the class is forgotten and once more afterwards
WARM_UP = 130  # more windows of the class to forget, so that the cache holds enough
FORGET_S = 150.0
PLANT = ("press-1", "press-2", "pump-3")  # machines that run on with --keep
HEALTHY_SHARE = 0.4  # of their stretches
STRETCH = (150, 600)  # fewest and most windows of one
MOST_LOST_POINTS = 5.0  # of accuracy on the other classes


@dataclass
class Story:
    """What was sent and what came back, by sequence number."""

    truth: dict[int, str] = field(default_factory=dict)
    part: dict[int, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    releases: dict[int, str] = field(default_factory=dict)
    named_after_acceptance: int = 0
    statuses: list[dict[str, Any]] = field(default_factory=list)
    first_answer_s: float | None = None

    def accuracy(self, part: str, forget: str) -> float:
        """Percent of right answers on the classes that stay."""
        seqs = [seq for seq in self.answers if self.part[seq] == part and self.truth[seq] != forget]
        return 100.0 * float(np.mean([self.answers[seq] == self.truth[seq] for seq in seqs])) if seqs else float("nan")

    def named(self, part: str, forget: str) -> tuple[int, int]:
        """Windows of the class, and how many of them were answered with it."""
        seqs = [seq for seq in self.answers if self.part[seq] == part and self.truth[seq] == forget]
        return len(seqs), sum(self.answers[seq] == forget for seq in seqs)

    @property
    def lost(self) -> int:
        """Windows without an answer."""
        return len(self.truth.keys() - self.answers.keys())

    @property
    def ended(self) -> bool:
        """Whether the forget command has its final status."""
        return bool(self.statuses) and self.statuses[-1]["status"] in TERMINAL


class Rig:
    """Publishes windows of the simulated rig, and keeps the story."""

    def __init__(self, client: ToolClient, seed: int, started_s: float) -> None:
        self.client, self.story = client, Story()
        self._windows = rig.stream(np.random.default_rng(seed))
        self._started_s, self._next_s = started_s, time.monotonic()
        client.subscribe([f"{BASE}/diagnosis/{ASSET}", f"{BASE}/unlearn/{FORGET}/status"])

    def next(self, only: str | None = None) -> rig.Take:
        """The next window, of one class or of any."""
        return next(take for take in self._windows if only in (None, take.fault_class))

    def send(self, part: str, take: rig.Take, *, labelled: bool = False) -> None:
        """Publish a window, in time, and take in what has come back."""
        seq = len(self.story.truth)
        self.story.truth[seq], self.story.part[seq] = take.fault_class, part
        publish(self.client, ASSET, seq, take, labelled=labelled)
        self._next_s = max(self._next_s + 1 / WINDOWS_PER_S, time.monotonic() - 0.2)
        self.listen(max(0.0, self._next_s - time.monotonic()))

    def listen(self, wait_s: float) -> None:
        """Take in what comes back within ``wait_s``."""
        story = self.story
        for heard in self.client.listen(max(wait_s, 0.001)):
            if heard.topic.endswith("/status"):
                story.statuses.append(heard.content)
                continue
            seq, name = heard.content["seq"], heard.content["class"]
            story.answers[seq], story.releases[seq] = name, heard.content["release"]
            story.named_after_acceptance += bool(story.statuses) and name == FORGET
            if story.first_answer_s is None:
                story.first_answer_s = time.monotonic() - self._started_s

    def settle(self, timeout_s: float) -> None:
        """Wait until every window has been answered."""
        deadline_s = time.monotonic() + timeout_s
        while self.story.lost and time.monotonic() < deadline_s:
            self.listen(0.1)


def publish(client: ToolClient, asset: str, seq: int, take: rig.Take, *, labelled: bool) -> None:
    """Publish one window of the rig."""
    label = take.fault_class if labelled else None
    window = Window(asset, BOOT, seq, time.time_ns(), label, take.samples, rpm=take.speed_rpm)
    client.client.publish(Topics(BASE).windows(asset), encode(window, rig.RATE_HZ, "m/s^2"), qos=1)


def plant(rng: np.random.Generator) -> Iterator[tuple[str, rig.Take]]:
    """Windows of some machines in turn, for ever: each runs for a while in one condition, most often a healthy one."""
    turns: dict[str, Iterator[rig.Take]] = {asset: iter(()) for asset in PLANT}
    while True:
        for asset in PLANT:
            take = next(turns[asset], None)
            if take is None:
                name = "NC" if rng.random() < HEALTHY_SHARE else str(rng.choice(rig.CLASSES))
                turns[asset] = _stretch(name, int(rng.integers(*STRETCH)), rng)
                take = next(turns[asset])
            yield asset, take


def _stretch(name: str, count: int, rng: np.random.Generator) -> Iterator[rig.Take]:
    run = rig.Run.draw(rng, float(rng.choice(rig.SPEEDS_RPM)))
    for _ in range(count):
        yield rig.Take(name, rig.windows(run, name, 1, rng)[0], run.speed_rpm)


def main(arguments: list[str]) -> int:
    """Show the story; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--seed", type=int, default=1, help="seed of the rig's runs")
    parser.add_argument("--keep", action="store_true", help="go on with windows and page until Ctrl-C")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    started_s = time.monotonic()
    try:
        with _gateway(console) as (broker, agent), connected(BrokerAddress("127.0.0.1", broker.port, "rig")) as client:
            plot = Rig(client, options.seed, started_s)
            play(plot, console)
            result = numbers(plot.story, agent.rss_mib(), time.monotonic() - started_s)
            show(result, console)
            if options.json:
                print(json.dumps(result), flush=True)  # noqa: T201 to standard output, all else to standard error
            if options.keep:
                run_on(client, options.seed, console)
    except (EdgeAgentError, TimeoutError) as error:
        console.print(f"[red]the demo could not run:[/red] {error}")
        return 1
    return 0 if result["worked"] else 1


@contextmanager
def _gateway(console: Console) -> Iterator[tuple[LocalBroker, LocalAgent]]:
    """Broker, agent and page of the demo, ended with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as name,
        packaged_release() as release,
        ExitStack() as end,
    ):
        folder, port = Path(name), free_port()
        broker = LocalBroker(folder / "broker", free_port())
        end.callback(broker.stop)
        console.print(f"broker: {broker.name} on 127.0.0.1:{broker.port}", highlight=False)
        token_file = folder / "token"
        token_file.write_text(secrets.token_hex(4))
        extra = f"[forget]\nmin_windows = 64\n{LocalPage.settings(port, token_file)}"
        agent = LocalAgent(folder / "agent", "demo", broker.port, release, extra)
        end.callback(agent.kill)
        agent.ready()
        console.print(f"agent: process {agent.process.pid}, log {agent.log_path}", highlight=False)
        page = LocalPage(agent, port)
        end.callback(page.stop)
        console.print(f"page: {page.url} (to forget there: token {token_file.read_text()})", highlight=False)
        yield broker, agent


def run_on(client: ToolClient, seed: int, console: Console) -> None:
    """Go on until Ctrl-C, with labels, so that more classes can be forgotten on the page."""
    console.print(f"{', '.join(PLANT)} run on, so that there is something to see on the page; Ctrl-C ends everything")
    with suppress(KeyboardInterrupt):
        for seq, (asset, take) in enumerate(plant(np.random.default_rng(seed))):
            publish(client, asset, seq // len(PLANT), take, labelled=True)
            for _ in client.listen(1 / WINDOWS_PER_S):  # nobody counts them any more
                pass


def packaged_release() -> Any:
    """The rig release that ships with the package, as a folder."""
    return as_file(files("edge_agent") / "rig_release")


def play(plot: Rig, console: Console) -> None:
    """Serve, forget, serve again, with bars."""
    story = plot.story
    with bars(console) as show_bar:
        for number in range(WARM_UP):
            plot.send("warm-up", plot.next(FORGET), labelled=True)
            show_bar("caching", number + 1, WARM_UP, f"labelled windows of {FORGET}")
        # The same windows afterwards: some runs of the rig are harder than others.
        compared = [plot.next() for _ in range(COMPARED)]
        for number, take in enumerate(compared):
            plot.send("before", take)
            show_bar("serving", number + 1, COMPARED, _last(story))
        plot.settle(10)
        plot.client.client.publish(Topics(BASE).unlearn(FORGET), b"", qos=1)
        deadline_s = time.monotonic() + FORGET_S
        while not story.ended and time.monotonic() < deadline_s:
            plot.send("during", plot.next())
            if story.statuses:
                status = story.statuses[-1]
                eta = f", {status['eta_s']:.0f} s left" if status.get("eta_s") else ""
                show_bar("forgetting", status.get("progress", 0.0), 1.0, f"{status.get('phase')}{eta}")
        for number, take in enumerate(compared):
            plot.send("after", take)
            show_bar("serving on", number + 1, COMPARED, _last(story))
        plot.settle(10)


def _last(story: Story) -> str:
    if not story.answers:
        return ""
    seq = max(story.answers)
    return f"rig runs {story.truth[seq]}, diagnosis {story.answers[seq]}"


def numbers(story: Story, rss_mib: float, seconds: float) -> dict[str, Any]:
    """What the published diagnoses show."""
    silent: dict[str, Any] = {"status": "none", "metrics": {}, "reason": "no status came"}
    final = story.statuses[-1] if story.statuses else silent
    sides = {}
    for part in ("before", "after"):
        windows, named = story.named(part, FORGET)
        accuracy = round(story.accuracy(part, FORGET), 2)
        sides[part] = {"windows_of_class": windows, "named_class": named, "accuracy_others": accuracy}
    releases = set(story.releases.values())
    worked = (
        final["status"] == "successful"
        and len(releases) == 2  # the old one and the new one
        and sides["before"]["named_class"] > 0
        and sides["after"]["windows_of_class"] > 0
        and sides["after"]["named_class"] == 0
        and story.named_after_acceptance == 0
        and story.lost == 0
        and sides["after"]["accuracy_others"] >= sides["before"]["accuracy_others"] - MOST_LOST_POINTS
    )
    return {
        "worked": bool(worked),
        "forget": FORGET,
        "status": final["status"],
        "reason": final.get("reason"),
        "before": sides["before"],
        "after": sides["after"],
        "named_after_acceptance": story.named_after_acceptance,
        "windows": len(story.truth),
        "lost": story.lost,
        "first_diagnosis_s": round(story.first_answer_s or float("nan"), 3),
        "forget_s": final["metrics"].get("job_s"),
        "steps": final["metrics"].get("steps"),
        "agent_rss_mib": round(rss_mib, 1),
        "seconds": round(seconds, 1),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The table before and after."""
    table = Table(f"{FORGET} forgotten: {result['status']}", "before", "after")
    before, after = result["before"], result["after"]
    table.add_row(f"windows of {FORGET}", str(before["windows_of_class"]), str(after["windows_of_class"]))
    table.add_row(f"... answered {FORGET}", str(before["named_class"]), str(after["named_class"]))
    table.add_row("accuracy, other classes", f"{before['accuracy_others']} %", f"{after['accuracy_others']} %")
    console.print(table)
    console.print(
        f"{result['windows']} windows, {result['lost']} lost; forgetting took {result['forget_s']} s in "
        f"{result['steps']} steps; the whole demo {result['seconds']} s",
        highlight=False,
        soft_wrap=True,
    )
    if not result["worked"]:
        console.print(f"[red]it did not work:[/red] {escape(result['reason'] or 'see the table')}")
