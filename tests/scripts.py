"""Scripts in a process of their own, for what must not happen to the tests' process: limits, kills."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

NEEDS_OPENSSL: Final = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
ROOT: Final = Path(__file__).parents[1]


def run_script(script: str) -> str:
    """Run Python code from the project's root; it must end with exit code 0. Returns what it printed."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def edge_agent(*arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "edge_agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
