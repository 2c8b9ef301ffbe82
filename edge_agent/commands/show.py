"""Progress bars and tables of the command-line tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge_agent.commands.unlearn import Signing
from edge_agent.mqtt_client import BrokerAddress

Show = Callable[[str, float, float | None, str], None]


@contextmanager
def bars(console: Console | None = None) -> Iterator[Show]:
    """A function (what, done, total, words) that shows one bar for each ``what``; on standard error.

    Where nobody knows the total, None, the bar only shows that it goes on.
    """
    columns = TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")
    # What an agent says is no markup, here and below.
    tail = TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[words]}", markup=False)
    known: dict[str, TaskID] = {}
    with Progress(*columns, *tail, console=console or Console(stderr=True)) as progress:

        def show(what: str, done: float, total: float | None, words: str) -> None:
            if what not in known:
                known[what] = progress.add_task(what, total=total, words=words)
            progress.update(known[what], completed=done, total=total, words=words)

        yield show


@contextmanager
def arriving() -> Iterator[Callable[[int], None]]:
    """A function that is told how many bytes have come, and shows how many there are by now."""
    come = 0
    with bars() as show:

        def more(count: int) -> None:
            nonlocal come
            come += count
            show("fetching", come, None, f"{come / 2**20:.1f} MiB")

        yield more


def show_unlearn(
    address: BrokerAddress,
    base: str,
    classes: tuple[str, ...],
    reason: str,
    id_: str | None,
    signing: Signing | None,
    valid_s: float,
    timeout_s: float | None,
) -> int:
    """Send a forget command, show its progress; returns the exit code."""
    from edge_agent.commands.unlearn import unlearn

    with bars() as show:

        def on_status(status: dict[str, Any]) -> None:
            if status["status"] != "rejected":
                show("forgetting", status["progress"], 1.0, f"{status['phase']} {_numbers(status['metrics'])}")

        status = unlearn(address, base, classes, reason, id_, signing, valid_s, timeout_s, on_status)
    console = Console()
    if status["status"] in ("rejected", "failed"):
        why = escape(f"{status['code']}: {status['reason']}")
        console.print(f"[red]{status['status']}[/red]: {why}", highlight=False)
        return 1
    console.print(f"[green]{escape(status['status'])}[/green] (id {escape(status['id'])})", highlight=False)
    for reason_ in status["metrics"].get("gate", []):
        words = escape(reason_["words"])
        console.print(f"  {'ok  ' if reason_['passed'] else 'FAIL'} {words}", highlight=False)
    return 0


def _numbers(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in metrics.items() if isinstance(value, int | float))[:60]


def show_simulation(
    address: BrokerAddress,
    base: str,
    asset: str,
    source: str,
    folder: Path | None,
    only: str | None,
    *,
    rate: float,
    count: int | None,
    labels: bool,
    seed: int,
) -> bool:
    """Publish windows until all are sent, or Ctrl-C, and show how many answers came back and were right.

    Returns:
        Whether every window was answered that there was time for.
    """
    from edge_agent.commands import simulate as simulating

    generator, seen = np.random.default_rng(seed), simulating.Outcome()
    if source == "rig":
        made = simulating.rig_source(only, generator)
    else:
        from edge_agent.commands.data import load_dataset

        made = simulating.dataset_source(load_dataset(source, folder, seed), only, generator)
    interrupted = False
    with bars() as show:

        def on_turn() -> None:
            right = f", right {seen.right / seen.answered:.1%}" if seen.answered else ""
            show("windows", seen.sent, count, f"sent {seen.sent}, answered {seen.answered}{right}")

        try:
            simulating.simulate(
                address, base, asset, made, seen, rate=rate, count=count, labels=labels, on_turn=on_turn
            )
        except KeyboardInterrupt:
            interrupted = True
    Console().print(f"sent {seen.sent}, answered {seen.answered}, right {seen.right}", highlight=False)
    return interrupted or seen.answered == seen.sent
