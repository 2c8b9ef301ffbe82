"""Where bare windows and weights may lie: in memory, in a folder of our own, and overwritten where that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.adapters import workplace
from edge_agent.adapters.workplace import SHARED_MEMORY, Workplace, file_system
from edge_agent.files import remove

pytestmark = pytest.mark.skipif(file_system(SHARED_MEMORY) != "tmpfs", reason="/dev/shm is no tmpfs here")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    made = Workplace(tmp_path)
    yield made
    made.clear()


def test_a_job_lies_in_memory_in_a_folder_for_its_owner_alone(place: Workplace, tmp_path: Path) -> None:
    folder = place.folder("job", 1000)
    assert folder.parent.parent == SHARED_MEMORY
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert place.folder("job", 1000) == folder == Workplace(tmp_path).folder("job", 1000)
    assert Workplace(tmp_path / "other").folder("job", 10**18).parent.parent == tmp_path / "other"


def test_what_does_not_fit_in_memory_goes_to_the_disk(place: Workplace, tmp_path: Path) -> None:
    folder = place.folder("job", 10**18)
    assert folder == tmp_path / "jobs" / "job"


def test_a_folder_that_somebody_else_could_read_is_not_used(place: Workplace, tmp_path: Path) -> None:
    folder = place.folder("job", 0).parent
    folder.chmod(0o755)
    assert place.folder("job", 0) == tmp_path / "jobs" / "job"
    folder.chmod(0o700)
    folder.rmdir()
    (tmp_path / "trap").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "trap")
    try:
        assert place.folder("job", 0) == tmp_path / "jobs" / "job"
        place.clear()
        assert folder.is_symlink()
    finally:
        folder.unlink()


def test_a_configured_place_that_is_no_memory_is_passed_over(tmp_path: Path) -> None:
    if file_system(tmp_path) in workplace.IN_MEMORY:
        pytest.skip("the folder for tests is in memory")
    place = Workplace(tmp_path / "state", tmp_path)
    assert place.folder("job", 0) == tmp_path / "state" / "jobs" / "job"


def test_the_runtime_directory_of_systemd_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SHARED_MEMORY / f"edge-agent-test-{os.getpid()}"
    runtime.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{runtime}:/run/another")
    try:
        place = Workplace(tmp_path)
        assert place.folder("job", 0).parent.parent == runtime
        place.clear()
    finally:
        runtime.rmdir()


def test_what_a_crash_left_in_a_place_that_is_not_configured_any_more_is_cleared_and_the_place_forgotten(
    place: Workplace, tmp_path: Path
) -> None:
    """Bare windows lay there until a reboot, while a certificate said that they were removed from memory."""
    former = [SHARED_MEMORY / f"edge-agent-test-{os.getpid()}-{number}" for number in range(2)]
    left = []
    for root in former:
        root.mkdir()
        folder = Workplace(tmp_path, root).folder("job", 0)
        assert folder.parent.parent == root
        folder.mkdir()
        left.append(folder / "windows")
        left[-1].write_bytes(b"bare windows")
    stranger = former[0] / "somebody else's"
    stranger.touch()
    try:
        place.clear()
        assert [path.exists() for path in left] == [False, False]
        assert [list(root.iterdir()) for root in former] == [[stranger], []]
        assert [path.name for path in tmp_path.iterdir()] == []
    finally:
        for root in former:
            remove(root)


def test_clearing_overwrites_what_is_on_the_disk_and_removes_what_is_in_memory(
    place: Workplace, tmp_path: Path
) -> None:
    names = []
    for number, size in enumerate((0, 10**18)):
        folder = place.folder("job", size)
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "windows").write_bytes(b"bare windows")
        names.append(tmp_path / f"block{number}")
    names[1].hardlink_to(tmp_path / "jobs" / "job" / "deep" / "windows")
    place.clear()
    place.clear()
    assert names[1].read_bytes() != b"bare windows"
    assert list((tmp_path / "jobs").iterdir()) == []
    assert list(place.folder("job", 0).parent.iterdir()) == []


def test_a_path_that_is_not_there_is_of_no_file_system(tmp_path: Path) -> None:
    assert file_system(tmp_path / "nowhere") == ""
    assert file_system(Path("/proc")) == "proc"


def test_a_mount_whose_name_is_no_utf8_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_bytes(Path("/proc/self/mounts").read_bytes() + b"/dev/sdb1 /media/M\xc4RZ\\040A vfat rw 0 0\n")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(mounts if path == Path("/proc/self/mounts") else path))
    assert file_system(SHARED_MEMORY) == "tmpfs"
    assert (Path(os.fsdecode(b"/media/M\xc4RZ A")), "vfat") in list(workplace._mounts(mounts.read_bytes()))


def test_bare_releases_that_a_killed_process_left_are_gone_with_the_jobs_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that went to the disk was never looked for once there was room in memory, and no certificate told of it."""
    disk = tmp_path / "tmp"
    disk.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(disk))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left = [root / f"{workplace.BARE}{killed.pid}-left" for root in (disk, SHARED_MEMORY)]
    for folder in left:
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"w")
    with workplace.bare_folder() as own:
        for folder in left:
            folder.mkdir(exist_ok=True)
        Workplace(tmp_path / "state").clear()
        assert own.exists()
        assert not any(folder.exists() for folder in left)
