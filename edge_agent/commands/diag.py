"""``edge-agent diag``: one archive for whoever helps, without a secret and without a window.

What is in it is chosen file by file: nothing of the folders ``keys``, ``cache`` and ``jobs``, no password, no model.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from edge_agent import __version__
from edge_agent.adapters.audit import Chain, read_rows
from edge_agent.adapters.journal import read_states
from edge_agent.clock import read as read_clock
from edge_agent.commands.check import check
from edge_agent.config import read_config
from edge_agent.core.errors import EdgeAgentError, Misconfigured
from edge_agent.files import size_of, storage
from edge_agent.schemas.card import CARD
from edge_agent.settings import MODELS, OWN_MODEL, Config

LINES: Final = 5000  # of the log
ANSWER_S: Final = 5.0


def diagnose(config_path: Path, out: Path, log: Path | None) -> list[str]:
    """Write the archive, a new file; returns the names of what is in it.

    A part that cannot be had says why in its place.

    Raises:
        Misconfigured: ``E_CONFIG``, the archive is there already.
        StorageFailed: it cannot be written.
    """
    if out.exists():
        raise Misconfigured("E_CONFIG", f"{out} is there already")
    parts = _parts(config_path, log)
    with (
        storage(f"{out} cannot be written"),
        os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file,
        tarfile.open(fileobj=file, mode="w:gz") as archive,
    ):
        for name, make in parts.items():
            content = _made(make)
            entry = tarfile.TarInfo(f"edge-agent-diag/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return list(parts)


def _parts(config_path: Path, log: Path | None) -> dict[str, Callable[[], Any]]:
    parts: dict[str, Callable[[], Any]] = {
        "about.json": _about,
        "clock.json": lambda: read_clock().document(),
        "log.jsonl": lambda: _log(log),
    }
    # Last, for with it root becomes the agent's user. It also says what is wrong with a configuration.
    last: dict[str, Callable[[], Any]] = {"findings.json": lambda: [asdict(one) for one in check(config_path)]}
    try:
        config = read_config(config_path)
    except Misconfigured:
        return parts | last
    more: dict[str, Callable[[], Any]] = {
        "config.json": lambda: _without_user(config),
        "disk.json": lambda: _disk(config.gateway.state_dir),
        "metrics.txt": lambda: _metrics(config),
    }
    for name in (OWN_MODEL, *config.models):
        more |= _of_model("" if name == OWN_MODEL else f"{MODELS}/{name}/", config.of_model(name).gateway.state_dir)
    return parts | more | last


def _of_model(prefix: str, state_dir: Path) -> dict[str, Callable[[], Any]]:
    return {
        f"{prefix}cards.json": lambda: dict(_cards(state_dir)),
        f"{prefix}journal.json": lambda: [asdict(state) for state in read_states(state_dir / "journal.jsonl")],
        f"{prefix}audit.json": lambda: _audit(state_dir / "audit.jsonl"),
    }


def _made(make: Callable[[], Any]) -> bytes:
    try:
        content = make()
    except (EdgeAgentError, OSError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        content = {"not_to_be_had": f"{type(error).__name__}: {error}"}
    return content if isinstance(content, bytes) else json.dumps(content, indent=1, default=str).encode()


def _about() -> dict[str, Any]:
    memory = Path("/proc/meminfo").read_text().splitlines()[:3]
    packages = sorted((one.metadata["Name"], one.version) for one in distributions())
    return {
        "version": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "memory": memory,
        "uptime_s": float(Path("/proc/uptime").read_text().split()[0]),
        "packages": dict(packages),
    }


def _without_user(config: Config) -> dict[str, Any]:
    """The configuration; it names the files of secrets and holds none, but for the user's name."""
    content = config.model_dump(mode="json")
    if content["mqtt"]["username"] is not None:
        content["mqtt"]["username"] = "(set)"
    return content


def _cards(state_dir: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted((state_dir / "releases").glob(f"*/{CARD}")):
        card = json.loads(path.read_bytes())
        yield path.parent.name, {key: value for key, value in card.items() if key not in ("self_test", "margins")}


def _audit(path: Path) -> dict[str, Any]:
    chain = Chain()
    deque(read_rows(path, chain), maxlen=0)
    return {"rows": chain.count} | ({"code": "E_CHAIN", "reason": chain.problem} if chain.problem else {})


def _disk(state_dir: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(state_dir)
    sizes = {
        path.name: size_of(path) if path.is_dir() else path.lstat().st_size for path in sorted(state_dir.iterdir())
    }
    return {"total_bytes": usage.total, "free_bytes": usage.free, "state_bytes": sizes}


def _metrics(config: Config) -> bytes:
    address = f"http://{config.http.host}:{config.http.port}/metrics"
    with urllib.request.urlopen(address, timeout=ANSWER_S) as answer:
        content: bytes = answer.read()
    return content


def _log(path: Path | None) -> bytes:
    """The last lines: of a file, else of the service's journal."""
    if path is not None:
        return b"\n".join(path.read_bytes().splitlines()[-LINES:])
    command = ["journalctl", "--unit", "edge-agent", "--lines", str(LINES), "--output", "cat", "--no-pager"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
