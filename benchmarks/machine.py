"""What a result depends on besides its settings: commit, versions, machine, an undisturbed ear; how it is shown."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"  # where the prepared CWRU and DSADS archives lie, if they are there
CACHE = ROOT / ".cache" / "benchmarks"


def facts(checkout: Path = ROOT) -> dict[str, str]:
    """Commit of a checkout (with + if anything but results has changed since), processor and versions."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
        return run.stdout.strip()

    code = ":/", ":(top,exclude)benchmarks/results"
    changed = "+" if git("status", "--porcelain", "--untracked-files=no", "--", *code) else ""
    packages = ("torch", "onnxruntime", "paho-mqtt", "numpy")
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") + changed,
        "machine": ", ".join((platform.machine(), f"{len(os.sched_getaffinity(0))} cores", *_processor())),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _processor() -> list[str]:
    """Its name, where Linux tells it; arm64 kernels do not."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][:1]


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection in the process that measures: what it has heard makes one take a tenth of a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def show(figures: Mapping[str, Any], *, as_json: bool) -> None:
    """Print figures as one JSON object, or a line each."""
    if as_json:
        print(json.dumps(figures))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}s}  {value}")
