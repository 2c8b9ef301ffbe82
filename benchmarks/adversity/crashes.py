"""Ends its own process, or fails, at the n-th change to the files below a folder: for programs that tests start.

    crashes.at(folder, number, "before")   SIGKILL before the change is made
    crashes.at(folder, number, "after")    SIGKILL once it is made
    crashes.at(folder, number, ENOSPC)     that error, from then on
    crashes.mend()                         no more errors
    crashes.everywhere(...)                one crash after the other, until it goes through

A change is a call of ``os`` that writes, syncs, makes, renames or removes; a path that is not below the folder, or a
descriptor of such a file, does not count. ``count`` says how many there have been.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from edge_agent.cli import main as edge_agent
from edge_agent.core.errors import StorageFailed

CHANGES = (
    *("fsync", "ftruncate", "link", "mkdir", "pwrite", "remove", "rename", "replace", "rmdir", "symlink"),
    *("truncate", "unlink", "write"),
)
count = 0
mended = False


def at(folder: Path, number: int, how: str | int) -> None:
    """Arm: from here on changes below ``folder`` are counted."""
    below = str(folder.resolve()) + os.sep
    for name in CHANGES:
        setattr(os, name, _armed(getattr(os, name), below, number, how))
    os.open = _armed_open(os.open, below, number, how)
    io.open = _armed_file(io.open, below, number, how)  # what pathlib opens with


def mend() -> None:
    """Let the disk be sound again."""
    global mended  # noqa: PLW0603  one process, one disk
    mended = True


def everywhere(folder: Path, prepare: Callable[[Path], None], act: Callable[[Path], None], how: str | int) -> int:
    """Do something in folders 1, 2, ..., each time with the crash one change later; returns how many did not end.

    Raises:
        AssertionError: something else than the error of a disk came out of it.
    """
    for number in itertools.count(1):
        place = folder / str(number)
        prepare(place)
        child = os.fork()
        if child == 0:
            at(place, number, how)
            _end(act, place)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return number - 1
        assert code in (1, -signal.SIGKILL), f"change {number}, {how}: exit code {code}"
    raise AssertionError("it never ends")


def _end(act: Callable[[Path], None], place: Path) -> NoReturn:
    """Do it and end this process: 0 if it went through, 1 if the disk failed, 2 for anything else."""
    code = 2
    try:
        act(place)
        code = 0
    except (OSError, StorageFailed):
        code = 1
    except Exception:  # noqa: BLE001 the top of a process
        traceback.print_exc()
    finally:
        os._exit(code)


def _armed(call: Callable[..., Any], below: str, number: int, how: str | int) -> Callable[..., Any]:
    def change(target: Any, *rest: Any, **options: Any) -> Any:
        if not _where(target, options.get("dir_fd")).startswith(below):
            return call(target, *rest, **options)
        return _pass(lambda: call(target, *rest, **options), number, how)

    return change


def _armed_open(call: Callable[..., int], below: str, number: int, how: str | int) -> Callable[..., int]:
    def change(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        makes = flags & os.O_CREAT and not os.path.lexists(path)
        if not makes or not _where(path, options.get("dir_fd")).startswith(below):
            return call(path, flags, *rest, **options)
        made: int = _pass(lambda: call(path, flags, *rest, **options), number, how)
        return made

    return change


def _armed_file(call: Callable[..., Any], below: str, number: int, how: str | int) -> Callable[..., Any]:
    def change(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "r" in mode or not _where(file, None).startswith(below):
            return call(file, mode, *rest, **options)
        return _pass(lambda: call(file, mode, *rest, **options), number, how)

    return change


def _where(target: Any, folder: int | None) -> str:
    """The absolute path of a path or descriptor."""
    if isinstance(target, int):
        return str(Path(f"/proc/self/fd/{target}").readlink())
    start = Path.cwd() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
    return str(os.path.normpath(start / os.fspath(target)))


def _pass(change: Callable[[], Any], number: int, how: str | int) -> Any:
    global count  # noqa: PLW0603  one process, one count
    count += 1
    mine = count
    if isinstance(how, int) and count >= number and not mended:
        raise OSError(how, os.strerror(how))
    if how == "before" and count == number:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        return change()
    finally:
        if how == "after" and mine == number:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the agent's command line, armed: the program's arguments are FOLDER NUMBER HOW, then the agent's."""
    folder, number, how, *arguments = sys.argv[1:]
    at(Path(folder), int(number), int(how) if how.isdecimal() else how)
    sys.argv = ["edge-agent", *arguments]
    edge_agent()


if __name__ == "__main__":
    main()
