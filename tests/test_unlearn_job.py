"""The child process: what it may see, what it leaves, and that it can be repeated."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from benchmarks import toy
from edge_agent.adapters import job_folder
from edge_agent.adapters.onnx_session import OnnxModel
from edge_agent.adapters.releases import read_release
from edge_agent.schemas.card import MODEL
from tests.scripts import ROOT

WHINE = toy.CLASSES.index("whine")
# Prints every file that Python opens, then runs the job.
AUDITED = """
import sys
def seen(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        print("opened", arguments[0], flush=True)
sys.addaudithook(seen)
from edge_agent.schemas.card import MODEL
from edge_agent.unlearn_job import main
sys.exit(main(sys.argv[1:]))
"""
# A gate that nothing passes: a good edit cannot be made to fail it on demand.
STRICT = """
import sys
from edge_agent import unlearn_job
limits = unlearn_job.gate.GateSettings(min_agreement=1.01)
unlearn_job.gate.GateSettings = lambda: limits
sys.exit(unlearn_job.main(sys.argv[1:]))
"""
# Starts the child as an agent does, and waits for it.
PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from edge_agent.adapters.child import Child
from edge_agent.commands.local import wait_until
child = Child(Path("job"), Path("job.log"), 10)
wait_until(lambda: child.ended() is not None, "the child has ended", 60)
"""
PR_SET_MDWE = 65  # prctl(2): forbid memory that is writable and executable
DATA_FILES = re.compile(r"\.(safetensors|onnx|onnx\.data|slots|npz|npy|pt|mat|jsonl|bin)$")


@pytest.fixture
def job(tmp_path: Path, toy_release: Path) -> Path:
    """A job folder as the agent makes it, in a state directory that holds much else."""
    return job_in(tmp_path / "state", toy_release)


def job_in(state: Path, origin: Path) -> Path:
    """A job to make a release forget a class."""
    (state / "cache").mkdir(parents=True)
    for label, name in enumerate(toy.CLASSES):
        content = toy.windows(label, 40, np.random.default_rng(label)).tobytes()
        (state / "cache" / f"{name}.slots").write_bytes(content)
    shutil.copytree(origin, state / "releases" / "parent")
    release = read_release(state / "releases" / "parent")
    folder = state / "jobs" / "one"
    windows = {"whine": toy.windows(WHINE, 64, np.random.default_rng(3))}
    job_folder.prepare(folder, job_folder.Job("one", ("whine",), 7, 1, {"sender": 64}), release, windows)
    return folder


def run(job: Path, *before: str, expected: int = 0) -> str:
    command = [*before, sys.executable, "-c", AUDITED, str(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expected, done.stderr[-3000:] + done.stdout[-2000:]
    return done.stdout + done.stderr


def outcome(job: Path) -> dict[str, Any]:
    content = job_folder.read_outcome(job)
    assert content is not None
    return content


def test_the_job_folder_holds_no_dream_of_the_class_and_no_window_of_another(job: Path) -> None:
    dreams = safetensors.numpy.load_file(job / "dreams.safetensors")
    assert WHINE not in dreams["first"]
    assert WHINE not in dreams["second"]
    assert len(dreams["first"]) > 0
    assert list(job_folder.read_windows(job)) == ["whine"]
    assert not (job / "release" / "dreams.safetensors").exists()


@pytest.mark.parametrize("origin", ["toy_release", "int8_release"])
def test_the_child_opens_no_data_but_its_job_folder(
    origin: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Python's audit hook sees what Python opens; strace, where it is installed, sees what libraries open.

    The quantiser puts what it makes on the way into a temporary folder, which was /tmp, on a disk.
    """
    job = job_in(tmp_path / "state", request.getfixturevalue(origin))
    strace = shutil.which("strace")
    tracer = [strace, "-f", "-e", "trace=openat,open", "-o", str(job.parent / "trace")] if strace else []
    output = run(job, *tracer)
    opened = set(re.findall(r"^opened (.+)$", output, re.MULTILINE))
    if strace:
        calls = (job.parent / "trace").read_text()
        opened |= set(re.findall(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]+)", [^)]*\) = \d+', calls))
    data = {Path(name) for name in opened if DATA_FILES.search(name)}
    inside = {path for path in data if path.is_relative_to(job)}
    libraries = {path for path in data if path.is_relative_to(sys.prefix) or path.is_relative_to(sys.base_prefix)}
    assert data - inside - libraries == set()
    state = job.parents[1]
    assert [name for name in opened if Path(name).is_relative_to(state) and not Path(name).is_relative_to(job)] == []
    names = {path.relative_to(job).as_posix() for path in inside}
    if strace:
        assert {"windows.safetensors", "dreams.safetensors", "release/weights.safetensors"} <= names
    assert "progress.jsonl" in names  # else the search proves nothing


def test_the_job_works_where_no_memory_may_be_writable_and_executable(job: Path) -> None:
    """With systemd's MemoryDenyWriteExecute oneDNN ended every job with "could not create a primitive"."""
    deny = f"import ctypes; ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0)"
    deny += "; import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    mapped = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    denied = [sys.executable, "-c", deny]
    if subprocess.run([*denied, sys.executable, "-c", mapped], capture_output=True, check=False).returncode == 0:
        pytest.skip("this kernel cannot forbid it (Linux before 6.3)")
    run(job, *denied)
    assert read_release(job / "result").card.forgotten == ("whine",)


def test_the_job_leaves_a_release_that_verifies_and_a_trace_of_every_step(job: Path) -> None:
    run(job)
    result = read_release(job / "result")
    assert result.card.forgotten == ("whine",)
    assert [bool(of.quantiles) for of in result.card.margins] == [name != "whine" for name in result.card.classes]
    assert result.card.parent == read_release(job.parents[1] / "releases" / "parent").digest
    dreams = safetensors.numpy.load_file(job / "result" / "dreams.safetensors")
    assert WHINE not in dreams["first"]
    steps = [json.loads(line) for line in (job / "trace.jsonl").read_text().splitlines()]
    assert [step["number"] for step in steps] == list(range(1, outcome(job)["metrics"]["steps"] + 1))
    assert steps[0]["push_loss"] > 0.05
    assert steps[-1]["forget_share"] == 0.0


def test_the_same_job_run_twice_gives_the_same_weights(job: Path) -> None:
    again = job.with_name("again")
    shutil.copytree(job, again)
    run(job)
    run(again)
    first, second = (safetensors.numpy.load_file(one / "result" / "weights.safetensors") for one in (job, again))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_class_forgotten_before_stays_forgotten(job: Path) -> None:
    """A second edit that did not mask the first class brought 17 % of its windows back."""
    run(job)
    first = read_release(job / "result")
    second = job.with_name("second")
    rattle = toy.CLASSES.index("rattle")
    windows = {"rattle": toy.windows(rattle, 64, np.random.default_rng(4))}
    job_folder.prepare(second, job_folder.Job("two", ("rattle",), 8, 1, {"sender": 64}), first, windows)
    run(second)
    result = read_release(second / "result")
    assert result.card.forgotten == ("rattle", "whine")
    test = np.concatenate([toy.windows(label, 60, np.random.default_rng(9)) for label in (WHINE, rattle)])
    answers = OnnxModel(result.read(MODEL), 1).logits(test).argmax(axis=1)  # nothing masked
    assert np.isin(answers, (WHINE, rattle)).mean() <= 0.02


def test_a_tampered_release_ends_the_job_with_its_code(job: Path) -> None:
    weights = job / "release" / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # the file is a hard link: the store's copy must stay as it is
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    run(job, expected=1)
    assert outcome(job)["code"] == "E_HASH"
    assert not (job / "result").exists()


def test_an_edit_that_the_gate_refuses_leaves_its_numbers_but_no_release(job: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STRICT, str(job)], check=False, timeout=300)
    assert done.returncode == 1
    assert outcome(job)["code"] == "E_GATE"
    assert re.search(r"\w+: [\d.]+% of its dreams are answered as before, limit 101%", outcome(job)["reason"])
    failed = [row["check"] for row in outcome(job)["metrics"]["gate"] if not row["passed"]]
    assert failed == ["agreement"]
    assert not (job / "result").exists()


def test_the_child_ends_when_its_parent_has_gone(job: Path) -> None:
    """An agent that was killed must not leave a child that burns the gateway's cores."""
    command = [sys.executable, "-m", "edge_agent.unlearn_job", str(job), "--parent", "1"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 3
    assert job_folder.read_outcome(job) is None


def test_the_child_of_an_isolated_agent_runs_no_code_of_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    """The agent had -I and its child had not: a folder edge_agent in the working directory was run."""
    (tmp_path / "edge_agent").mkdir()
    (tmp_path / "edge_agent" / "__init__.py").write_text("print('of the folder')")
    command = [sys.executable, "-I", "-c", PARENT, str(ROOT)]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    assert "of the folder" not in (tmp_path / "job.log").read_text()
