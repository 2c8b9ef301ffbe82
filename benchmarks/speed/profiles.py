"""Where CPU goes, function by function, in the serving process and in a forget job; py-spy takes the samples.

    python -m benchmarks.speed.profiles                       the code as it is
    python -m benchmarks.speed.profiles --checkout ../before  another checkout, as some commit left it

The packaged release (width 16) of the checkout answers queued windows of the simulated rig, and then forgets a class of
512 cached ones. A sample counts for the innermost function of the agent or of paho: what that calls in numpy, ONNX
Runtime or torch is its own. The rows of a commit replace those that ``results/profiles.csv`` holds of it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import runs
from benchmarks.machine import ROOT, facts
from benchmarks.speed.consumers import Consumer, running_agent
from benchmarks.speed.figures import rows_of
from benchmarks.speed.forgetting import fill, successful
from benchmarks.speed.load import Load, load, rig_windows
from benchmarks.speed.plan import say
from benchmarks.speed.retraining import CACHED, FORGET
from benchmarks.stream import Stream, stream
from edge_agent import rig

PROFILES: Final = runs.RESULTS / "profiles.csv"
SERVING: Final = "serving"  # CPU microseconds per window
FORGETTING: Final = "forgetting"  # CPU seconds of the job
WINDOWS: Final = 4000  # in a drain
DRAINS: Final = 5
SAMPLES_PER_S: Final = 100
ELSEWHERE: Final = "elsewhere"
JOB: Final = "edge_agent.unlearn_job"
_FRAME: Final = re.compile(r"(?P<function>.+) \((?P<path>[^():]+)(?::\d+)?\)")
_OURS: Final = re.compile(r".*/(?P<module>(?:edge_agent|paho)/.+)\.py")


@dataclass(frozen=True)
class Share:
    """What one function took of one profile.

    Attributes:
        commit: of the code that was profiled.
        function: with its module, for example ``edge_agent.live: answer``; ``elsewhere`` if it is neither's.
    """

    commit: str
    profile: str
    function: str
    value: float


def owner(stack: str) -> str:
    """The innermost function of the agent or of paho in a stack as py-spy writes it, outermost frame first."""
    for frame in reversed(stack.split(";")):
        told = _FRAME.fullmatch(frame)
        ours = _OURS.fullmatch(told["path"]) if told else None
        if told and ours:
            return f"{ours['module'].replace('/', '.')}: {told['function']}"
    return ELSEWHERE


def owners(folded: str, within: str) -> Counter[str]:
    """Samples per function, of the stacks that have ``within`` in them."""
    counted: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        if within in stack:
            counted[owner(stack)] += int(count)
    return counted


def measure(checkout: Path, folder: Path) -> Iterator[Share]:
    """Profile the agent of a checkout, serving and forgetting."""
    commit = facts(checkout)["commit"]
    # Safe: otherwise the folder from which this runs would come before the checkout.
    env = {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    with (
        load(folder / "broker", rig_windows()) as (port, offered),
        running_agent(folder / "agent", port, checkout / "edge_agent" / "rig_release", env=env) as local,
        stream(port, "edge/agent", rig.RATE_HZ, "m/s^2") as link,
    ):
        agent = Consumer("agent", "edge/agent", local.process.pid)
        yield from _told(commit, SERVING, _serving(offered, agent, checkout, folder))
        yield from _told(commit, FORGETTING, _forgetting(link, agent, checkout, folder))


def _told(commit: str, profile: str, shares: dict[str, float]) -> Iterator[Share]:
    say(f"{commit}, {profile}: {sum(shares.values()):.0f}")
    for function, value in sorted(shares.items(), key=lambda item: -item[1]):
        yield Share(commit, profile, function, value)


def _serving(offered: Load, agent: Consumer, checkout: Path, folder: Path) -> dict[str, float]:
    """CPU microseconds per window of each function: the whole, timed without py-spy, by the shares of the samples."""
    whole_us = offered.drains(agent, WINDOWS, DRAINS).cpu_us
    with recorded(agent.pid, folder / SERVING):
        for _ in range(DRAINS):
            offered.drain(agent, WINDOWS)
    samples = _of(checkout, folder / SERVING, "edge_agent run")
    return {function: whole_us * count / samples.total() for function, count in samples.items()}


def _forgetting(link: Stream, agent: Consumer, checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds of each function in the job's process."""
    fill(link, FORGET, CACHED)
    with recorded(agent.pid, folder / FORGETTING):
        successful(link, FORGET, link.command(f"edge/agent/unlearn/{FORGET}", b""))
    samples = _of(checkout, folder / FORGETTING, JOB)
    return {function: count / SAMPLES_PER_S for function, count in samples.items()}


def _of(checkout: Path, recording: Path, within: str) -> Counter[str]:
    """The samples of a recording.

    Raises:
        RuntimeError: they are of other code.
    """
    folded = recording.read_text()
    if f"({checkout}/edge_agent/" not in folded:
        raise RuntimeError(f"not the code of {checkout} was running")
    return owners(folded, within)


@contextmanager
def recorded(pid: int, to: Path) -> Iterator[None]:
    """Sample a process and its children meanwhile; their stacks are in ``to`` afterwards.

    Raises:
        RuntimeError: py-spy could not, with what it said; most often it may not look into another process.
    """
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    how = ("--subprocesses", "--nonblocking", "--full-filenames", "--function", "--format", "raw")
    command = [program, "record", "--pid", str(pid), *how, "--rate", str(SAMPLES_PER_S), "--output", str(to)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as spy:
        try:
            yield
        finally:
            spy.send_signal(signal.SIGINT)
            words, _ = spy.communicate()
    if not to.exists():
        raise RuntimeError(f"py-spy: {words.strip()[-500:]}")


def save(shares: Iterable[Share], path: Path = PROFILES) -> None:
    """Keep them in place of those of the same commit; commits stay in the order in which they first came."""
    known, kept = facts(), rows_of(path)
    rows = [known | asdict(share) | {"value": f"{share.value:.4g}"} for share in shares]
    order = list(dict.fromkeys(row["commit"] for row in [*kept, *rows]))
    new = {row["commit"] for row in rows}
    rows += [row for row in kept if row["commit"] not in new]
    columns = dict.fromkeys(("commit", "profile", "function", "value", *known))
    runs.write(path, columns, sorted(rows, key=lambda row: order.index(row["commit"])))


def main() -> None:
    """Profile a checkout, and keep what it gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="DIR", help="whose code (default: this one's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-profiles-") as folder:
        shares = list(measure(options.checkout.resolve(), Path(folder)))
    save(shares)
    for share in shares:
        print(f"{share.profile:10s} {share.value:8.1f}  {share.function}")


if __name__ == "__main__":
    main()
