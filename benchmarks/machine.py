"""What a result depends on besides its settings: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"  # where the prepared CWRU and DSADS archives lie, if they are there
CACHE = ROOT / ".cache" / "benchmarks"


def facts() -> dict[str, str]:
    """Commit (with + for a changed tree), processor and versions."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return run.stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    packages = ("torch", "onnxruntime", "paho-mqtt", "numpy")
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") + changed,
        "machine": f"{platform.machine()}, {len(__import__('os').sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
