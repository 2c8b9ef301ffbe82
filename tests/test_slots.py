"""Files of sealed slots: what a crash or a full disk at any moment leaves of them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from benchmarks.adversity import crashes
from edge_agent import slots
from edge_agent.core.errors import StorageFailed
from edge_agent.slots import SlotFile
from edge_agent.vault import Vault
from tests.scripts import run_script

HEADER, BODY, MOST = 4, 16, 8


def opened(folder: Path) -> SlotFile:
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    return SlotFile(folder / "cache", "hum", Vault(folder), HEADER, BODY, MOST)


def filled(folder: Path) -> SlotFile:
    file = opened(folder)
    for slot in (0, 1, 2, 4):
        file.write(slot, bytes([slot]) * HEADER, bytes([slot]) * BODY)
    return file


def content(file: SlotFile) -> list[int]:
    whole = [slot for slot in range(file.count) if (file.header(slot), file.body(slot)) != (None, None)]
    for slot in whole:
        assert (file.header(slot), file.body(slot)) == (bytes([slot]) * HEADER, bytes([slot]) * BODY)
    return whole


def rekeyed(place: Path) -> None:
    opened(place).rekey()


def rekeyed_again(place: Path) -> None:
    """A new key; if the disk fails, once more, in the same process, when it is sound again."""
    file = opened(place)
    try:
        file.rekey()
    except (OSError, StorageFailed):
        crashes.mend()
        file.rekey()
        assert content(file) == [0, 1, 2, 4]
        assert len(Vault(place).names("cache-")) == len(list((place / "cache").glob("*.slots"))) == 1
        raise


def erased(place: Path) -> None:
    slots.destroy(place / "cache", Vault(place), "hum")


def crashed(folder: Path, what: str, how: str | int) -> list[Path]:
    """Do something to a file in processes that crash one change later each; the folders that they leave."""
    script = f"""
from pathlib import Path
from benchmarks.adversity import crashes
from tests.test_slots import *
number = crashes.everywhere(
    Path({str(folder)!r}), lambda place: filled(place).close(), lambda place: {what}(place), {how!r}
)
print(number)
"""
    return [folder / str(number + 1) for number in range(int(run_script(script)))]


def test_slots_are_found_again_and_empty_ones_are_empty(tmp_path: Path) -> None:
    filled(tmp_path).close()
    file = opened(tmp_path)
    assert content(file) == [0, 1, 2, 4]
    assert file.count == 5
    file.clear(1)
    assert content(file) == [0, 2, 4]
    file.close()


def test_a_slot_copied_to_another_place_is_empty_there(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = next((tmp_path / "cache").glob("*.slots"))
    size = slots.slot_bytes(HEADER, BODY)
    rows = path.read_bytes()
    path.write_bytes(rows[size : 2 * size] + rows[:size] + rows[2 * size :])
    assert content(opened(tmp_path)) == [2, 4]


def test_a_new_key_keeps_every_slot_and_opens_nothing_of_the_old_file(tmp_path: Path) -> None:
    file = filled(tmp_path)
    before = next((tmp_path / "cache").glob("*.slots")).read_bytes()
    file.lend("rattle")
    file.rekey()
    assert content(file) == [0, 1, 2, 4]
    assert not file.has_lent("rattle")
    file.write(3, bytes([3]) * HEADER, bytes([3]) * BODY)
    file.close()
    again = opened(tmp_path)
    assert content(again) == [0, 1, 2, 3, 4]
    path = next((tmp_path / "cache").glob("*.slots"))
    path.write_bytes(before)
    assert content(opened(tmp_path)) == []


def test_a_new_key_for_which_the_disk_has_no_room_leaves_neither_key_nor_copy(tmp_path: Path) -> None:
    """Each attempt left a key more, and the copy filled the disk for everything else."""
    filled(tmp_path).close()
    script = f"""
import resource
from pathlib import Path
from tests.test_slots import content, opened

file = opened(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (file.slot_bytes, file.slot_bytes))
for _ in range(3):
    try:
        file.rekey()
    except OSError:
        assert content(file) == [0, 1, 2, 4]
    else:
        raise SystemExit("there was room")
"""
    run_script(script)
    assert len(Vault(tmp_path).names("cache-")) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".slots"]


@pytest.mark.parametrize("how", ["before", "after", errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_power_cut_or_a_failing_disk_at_any_moment_of_a_new_key_loses_no_slot(tmp_path: Path, how: str | int) -> None:
    folders = crashed(tmp_path, "rekeyed", how)
    assert len(folders) > 8
    for folder in folders:
        file = opened(folder)
        assert content(file) == [0, 1, 2, 4], folder.name
        file.rekey()
        assert content(file) == [0, 1, 2, 4], folder.name
        file.close()
        assert len(Vault(folder).names("cache-")) == len(list((folder / "cache").glob("*.slots"))) == 1


@pytest.mark.parametrize("how", [errno.ENOSPC, errno.EIO])
def test_a_new_key_that_failed_at_any_moment_is_made_again_without_a_restart(tmp_path: Path, how: int) -> None:
    """After a rename that failed every slot read as empty, and the old key was never destroyed."""
    assert len(crashed(tmp_path, "rekeyed_again", how)) > 8


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_power_cut_at_any_moment_of_erasing_leaves_all_or_nothing(tmp_path: Path, how: str) -> None:
    left = [tuple(content(opened(folder))) for folder in crashed(tmp_path, "erased", how)]
    assert set(left) <= {(0, 1, 2, 4), ()}
    assert left == sorted(left, reverse=True)
    assert left[-1] == ()
