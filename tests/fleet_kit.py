"""What tests of ``edge-agent fleet`` share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_agent.commands.local import LocalBroker


def operator_at(broker: LocalBroker, folder: Path) -> Path:
    """An operator's file for a broker."""
    path = folder / "operator.toml"
    path.write_text(f"[mqtt]\nport = {broker.port}\n")
    return path


def report_of(path: Path) -> dict[str, Any]:
    """A report that a tool has written."""
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content
