"""Profiles of running processes: whose a sample is, what is kept of a commit, and what its page makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.speed import profiles
from benchmarks.speed.figures import rows_of
from benchmarks.speed.profiles import ELSEWHERE, JOB, Share, owner, owners
from benchmarks.tables import profiles as table
from tests.result_rows import share_row, write

THREAD = "Thread.run (/usr/lib/python3.11/threading.py:982)"
READ = "Client._packet_read (/venv/site-packages/paho/mqtt/client.py:3058)"
ANSWER = "LiveModel.answer (/opt/edge-agent/edge_agent/live.py:96)"
NUMPY = "where (/venv/site-packages/numpy/core/multiarray.py:1)"
BUSY = """
import time
def spin(until_s):
    while time.process_time() < until_s:
        sum(range(1000))
print("ready", flush=True)
spin(1)
print("sampled", flush=True)
spin(60)
"""


def test_a_sample_is_the_innermost_functions_of_the_agent_or_of_paho() -> None:
    assert owner(f"{THREAD};{READ};{ANSWER};{NUMPY}") == "edge_agent.live: LiveModel.answer"
    assert owner(f"{THREAD};{READ}") == "paho.mqtt.client: Client._packet_read"
    assert owner(THREAD) == ELSEWHERE
    assert owner("not a frame") == ELSEWHERE


def test_samples_of_the_agent_and_of_its_job_are_told_apart() -> None:
    job = f'process 2:"/venv/bin/python -m {JOB} /run/job"'
    folded = f'process 1:"/venv/bin/python -m edge_agent run";{ANSWER} 7\n{job};{ANSWER};{NUMPY} 2\n{job};{ANSWER} 1\n'
    assert owners(folded, JOB) == Counter({"edge_agent.live: LiveModel.answer": 3})
    assert owners(folded, "edge_agent run") == Counter({"edge_agent.live: LiveModel.answer": 7})


def test_a_running_process_is_sampled(tmp_path: Path) -> None:
    script, to = tmp_path / "edge_agent" / "busy.py", tmp_path / "samples"
    script.parent.mkdir()
    script.write_text(BUSY)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "ready\n"
        try:
            with profiles.recorded(busy.pid, to):
                assert busy.stdout.readline() == "sampled\n"
        finally:
            busy.kill()
    assert owners(to.read_text(), "busy.py").most_common(1)[0][0] == "edge_agent.busy: spin"


def test_a_process_that_cannot_be_sampled_is_named_with_what_py_spy_says(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with pytest.raises(RuntimeError, match="py-spy: "), profiles.recorded(gone.pid, tmp_path / "samples"):
        pass


def test_a_commit_that_is_profiled_again_replaces_its_rows_and_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    for commit, value in (("before", 5.0), ("after", 2.0), ("before", 4.0)):
        profiles.save([Share(commit, "serving", "edge_agent.live: answer", value)], path)
    assert [(row["commit"], row["value"]) for row in rows_of(path)] == [("before", "4"), ("after", "2")]


def test_the_page_shows_the_functions_that_took_most_at_any_commit_and_sums_up_the_others(tmp_path: Path) -> None:
    rows = [share_row("before", f"m: f{number:02d}", 1.0 + number) for number in range(table.SHOWN + 2)]
    rows += [share_row("after", "m: f00", 100.0), share_row("after", ELSEWHERE, 200.0)]
    page = table.make(write(tmp_path, profiles=rows)).sections[1]
    assert "| m: f00 | 1 | 100 |" in page
    assert f"| {table.REST} | 5 | 200 |" in page  # f01 and f02
    assert f"| all | {sum(1 + number for number in range(table.SHOWN + 2))} | 300 |" in page
