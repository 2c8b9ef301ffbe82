"""The job folder: the child is given no dream of the class, and a full disk leaves nothing half laid out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from edge_agent.adapters import job_folder
from edge_agent.adapters.job_folder import Job, Progress, Reports
from edge_agent.adapters.releases import Release, read_release, write_card
from edge_agent.adapters.workplace import Workplace
from edge_agent.core.types import Float32
from edge_agent.files import sha256
from edge_agent.schemas.card import CARD, DREAMS, MODEL, WEIGHTS
from tests.scripts import run_script
from tests.test_releases import make_release

JOB = Job("id-1", ("IF-1",), 7, 1, {"label": 3})
FIRST, SECOND = np.array([0, 1, 2, 0, 2]), np.array([0, 1, 2, 1, 0])  # IF-1 is 1


def release_with_dreams(folder: Path) -> Release:
    """A release whose five dreams are numbered by their samples, two of them of IF-1."""
    make_release(folder)
    dreams = {"windows": np.arange(5, dtype=np.float16).reshape(5, 1, 1), "first": FIRST, "second": SECOND}
    safetensors.numpy.save_file(dreams, folder / DREAMS)
    card = read_release(folder, frozenset({DREAMS})).card
    return write_card(folder, card.model_copy(update={"files": {**card.files, DREAMS: sha256(folder / DREAMS)}}))


def forget_windows(count: int = 3) -> dict[str, Float32]:
    return {"IF-1": np.ones((count, 1, 64), np.float32)}


def test_the_child_gets_the_release_its_windows_and_no_dream_of_the_class(tmp_path: Path) -> None:
    release = release_with_dreams(tmp_path / "release")
    folder = tmp_path / "jobs" / "1"
    job_folder.prepare(folder, JOB, release, forget_windows())
    assert job_folder.read_job(folder) == JOB
    assert np.array_equal(job_folder.read_windows(folder)["IF-1"], forget_windows()["IF-1"])
    assert sorted(path.name for path in (folder / job_folder.RELEASE).iterdir()) == sorted([CARD, MODEL, WEIGHTS])
    assert read_release(folder / job_folder.RELEASE, frozenset({DREAMS})).digest == release.digest
    dreams = safetensors.numpy.load_file(folder / DREAMS)
    assert dreams["windows"].ravel().tolist() == [0, 2, 4]


def test_a_folder_left_by_an_interrupted_job_is_replaced(tmp_path: Path) -> None:
    release = release_with_dreams(tmp_path / "release")
    folder = tmp_path / "jobs" / "1"
    job_folder.prepare(folder, JOB, release, forget_windows())
    job_folder.write_outcome(folder, {"code": None})
    job_folder.prepare(folder, replace(JOB, seed=8), release, forget_windows())
    assert job_folder.read_job(folder).seed == 8
    assert job_folder.read_outcome(folder) is None


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_is_reported_and_what_was_written_is_left_to_be_overwritten(tmp_path: Path, room: int) -> None:
    """It was unlinked at once, bare windows and weights, wherever it lay, and no certificate said so."""
    release_with_dreams(tmp_path / "release")
    script = f"""
import resource
from pathlib import Path
from edge_agent.adapters import job_folder
from edge_agent.adapters.releases import read_release
from edge_agent.core.errors import StorageFailed
from tests.test_job_folder import JOB, forget_windows

release = read_release(Path({str(tmp_path / "release")!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
try:
    job_folder.prepare(Path({str(tmp_path / "jobs" / "1")!r}), JOB, release, forget_windows(1000))
except StorageFailed as error:
    assert error.code == "E_STORAGE", error
else:
    raise SystemExit("a full disk went unnoticed")
"""
    run_script(script)
    assert (tmp_path / "jobs" / "1").exists()
    assert Workplace(tmp_path).clear()
    assert not (tmp_path / "jobs" / "1").exists()


def test_the_newest_whole_report_is_read_once(tmp_path: Path) -> None:
    writer, reader = Reports(tmp_path), Reports(tmp_path)
    assert reader.latest() is None
    writer.add(Progress("probing", 0.1))
    writer.add(Progress("editing", 0.2, {"step": 3}))
    assert reader.latest() == Progress("editing", 0.2, {"step": 3})
    assert reader.latest() is None
    with (tmp_path / job_folder.PROGRESS).open("ab") as file:
        file.write(b'{"phase": "gat')
    assert reader.latest() is None
    with (tmp_path / job_folder.PROGRESS).open("ab") as file:
        file.write(b'ing", "progress": 0.6, "metrics": {}}\n')
    assert reader.latest() == Progress("gating", 0.6)


def test_an_outcome_is_there_when_the_job_has_ended(tmp_path: Path) -> None:
    assert job_folder.read_outcome(tmp_path) is None
    job_folder.write_outcome(tmp_path, {"code": "E_GATE", "reason": "r", "metrics": {"a": 1}})
    assert job_folder.read_outcome(tmp_path) == {"code": "E_GATE", "reason": "r", "metrics": {"a": 1}}
