"""A disk that has gone, or cannot read for a moment: serving goes on, and nothing that is sound is destroyed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks import toy
from edge_agent import jobs
from edge_agent.commands import adoption
from edge_agent.core.errors import EdgeAgentError, StorageFailed
from edge_agent.reservoir import Source
from edge_agent.schemas.messages import JobState
from tests.cache_kit import open_cache, window_of
from tests.disk_kit import no_disk, once, stock
from tests.offline import config_of, ended, on_probation, quiet, started
from tests.plant import wait_until
from tests.scripts import ROOT

pytestmark = pytest.mark.usefixtures(quiet.__name__)


def unreadable_once(monkeypatch: pytest.MonkeyPatch, part: str, times: int = 1) -> None:
    """One read of a file whose path has ``part`` in it fails, or so many."""
    once(monkeypatch, Path, "read_bytes", lambda path: part in str(path), times)
    monkeypatch.setattr(adoption, "READ_AGAIN_S", 0.0)


# A disk that has gone


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """From when it is called, each stat, listing and opening below a folder fails."""

    def go(folder: Path) -> None:
        for name in ("stat", "scandir", "listdir", "open"):
            monkeypatch.setattr(os, name, _failing_below(folder, getattr(os, name)))

    return go


def _failing_below(folder: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    def failing(path: Any, *args: Any, **more: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path).startswith(str(folder)):
            no_disk()
        return call(path, *args, **more)

    return failing


def test_an_agent_whose_disk_has_gone_serves_on(
    tmp_path: Path, toy_release: Path, gone: Callable[[Path], None]
) -> None:
    """It looked for a wish each second, and ended by the OSError within one."""
    model = started(config_of(tmp_path, toy_release))
    gone(tmp_path / "state")
    for now_s in range(3):
        model.housekeep(float(now_s))
    assert model.live.answer(toy.dataset().test.windows[:1])[0] is not None


def test_an_agent_whose_disk_has_gone_says_goodbye(
    tmp_path: Path, toy_release: Path, gone: Callable[[Path], None]
) -> None:
    model = started(config_of(tmp_path, toy_release, f'[forget]\nwork_dir = "{tmp_path}/none"\n'))
    gone(tmp_path / "state")
    model.stop()


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    """``edge-agent run 2>agent.log`` ended on a full disk."""
    script = (
        "from edge_agent import logs; import structlog; logs.configure('info', 'json'); log = structlog.get_logger()"
    )
    script += "; [log.error('storage.failed', text='x' * 10_000) for _ in range(3)]; print('goes on', flush=True)"
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, cwd=ROOT, check=False)
    assert run.stdout == b"goes on\n"


def test_an_error_while_a_job_folder_is_filled_fails_the_command_and_not_the_agent(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = started(config_of(tmp_path, toy_release, "[forget]\nmin_windows = 8\n"))
    stock(model)
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "accepted", "masked"))
    monkeypatch.setattr(jobs, "size_of", no_disk)

    def turn() -> bool:
        model.poll(may_start=True)
        return model.forgetting.at_work is None

    wait_until(turn)
    state = model.forgetting._journal.states()[0]
    ended(model)
    assert (state.status, state.code) == ("failed", "E_STORAGE")


@pytest.mark.parametrize("name", ["outcome.json", "progress.jsonl"])
def test_a_jobs_file_that_cannot_be_read_ends_no_agent(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Child:
        """A job that has written the file, and in the one case has ended."""

        def __init__(self, folder: Path, *_: Any) -> None:
            self.pid = 1
            (folder / name).write_bytes(b"{}\n")

        def ended(self) -> int | None:
            return 0 if name == "outcome.json" else None

        def end(self) -> None:
            pass

        def last_words(self) -> str:
            return ""

    monkeypatch.setattr(jobs, "Child", Child)
    model = started(config_of(tmp_path, toy_release, f'[forget]\nmin_windows = 8\nwork_dir = "{tmp_path}/none"\n'))
    stock(model)
    model.forgetting._journal.write(JobState("a", ("whine",), "d", "accepted", "masked"))

    def runs() -> bool:
        model.poll(may_start=True)
        return model.forgetting._jobs._running is not None

    wait_until(runs)
    for call in ("open", "read_bytes"):
        once(monkeypatch, Path, call, lambda path, *_: path.name == name)
    model.poll(may_start=True)
    model.stop()
    ended(model)


# A read that fails once says nothing of what lies there


def test_one_read_error_does_not_cost_the_windows_of_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that could not be read passed for lost, and what it had sealed was destroyed."""
    cache = open_cache(tmp_path)
    for seq in range(5):
        cache.offer("whine", window_of(seq), Source.SENDER)
    key = f"cache-{cache._file_name('whine')}"
    cache.close()
    unreadable_once(monkeypatch, key)
    with pytest.raises(StorageFailed):
        open_cache(tmp_path)
    assert open_cache(tmp_path).counts()["whine"] == 5


def test_one_read_error_does_not_replace_the_identity(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, toy_release)
    model = started(config)
    before = model.forgetting.fingerprint
    ended(model)
    once(monkeypatch, Path, "read_bytes", lambda path: path.name == "identity.key" and path.exists())
    with suppress(EdgeAgentError):  # systemd starts it again
        ended(started(config))
    model = started(config)
    after = model.forgetting.fingerprint
    ended(model)
    assert after == before


@pytest.mark.parametrize("part", ["/model.onnx", "/card.json", ".key"])
def test_one_read_error_does_not_bring_a_forgotten_class_back(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """During a probation the parent was adopted, the class named again, and its certificate withdrawn."""
    _, after = on_probation(tmp_path, toy_release)
    if part == ".key":  # each start tries first whether the master key opens any key at all
        unreadable_once(monkeypatch, f"release-{after}.key", times=2)
    else:
        unreadable_once(monkeypatch, f"{after}{part}")
    model = started(config_of(tmp_path, toy_release))
    state = model.forgetting._journal.states()[0]
    live = model.live.release.digest
    ended(model)
    assert (state.status, live) == ("successful", after)


def test_a_release_that_can_never_be_read_gives_way_to_another(
    tmp_path: Path, toy_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = on_probation(tmp_path, toy_release)
    read = Path.read_bytes
    monkeypatch.setattr(adoption, "READ_AGAIN_S", 0.0)
    monkeypatch.setattr(Path, "read_bytes", lambda path: no_disk() if f"{after}/model" in str(path) else read(path))
    model = started(config_of(tmp_path, toy_release))
    assert model.live.release.digest == before
    ended(model)
