"""The reference tables of README.md, deploy/agent.example.toml, manual and completions, made from the code.

``make readme`` writes them; tests/test_reference.py holds the files against the code.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel

from edge_agent.adapters.audit import EVENTS as ROWS
from edge_agent.adapters.http import Figures, certificate_figures
from edge_agent.cli import main
from edge_agent.core.errors import CODES
from edge_agent.logs import EVENTS
from edge_agent.schemas.messages import COUNTERS
from edge_agent.schemas.snapshot import EDGES_S, ModelSnapshot, Running, Snapshot
from edge_agent.settings import OWN_MODEL, Config, Model
from tests import manual

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
A_VALUE = {"name": '"press-7"', "assets": '["pump-*"]'}  # of keys that have no default
EXAMPLE = ROOT / "deploy" / "agent.example.toml"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def sections() -> list[tuple[str, type[BaseModel]]]:
    found = []
    for name, field in Config.model_fields.items():
        if name != "models":
            assert isinstance(field.annotation, type)
            assert issubclass(field.annotation, BaseModel)
            found.append((name, field.annotation))
    return [*found, ("models.<name>", Model)]


def default_of(value: object) -> str:
    return "" if value is None else json.dumps(str(value) if isinstance(value, Path) else value)


def config_table() -> str:
    rows = []
    for section, model in sections():
        for key, field in model.model_fields.items():
            default = "required" if field.is_required() else f"`{default_of(field.default)}`".replace("``", "-")
            rows.append((f"`{section}.{key}`", default, field.description or ""))
    return table(("key", "default", "meaning"), rows)


def example() -> str:
    lines = ["# Every key of the agent's configuration, with its default. Keys without one are commented out.", ""]
    for section, model in sections():
        several = "<name>" in section
        head = f"[{section.replace('<name>', 'pumps')}]"
        lines.append(f"{'# ' * several}{head}  # {(model.__doc__ or '').strip().rstrip('.')}")
        for key, field in model.model_fields.items():
            value = A_VALUE[key] if field.is_required() else default_of(field.default) or '""'
            off = several or (not field.is_required() and field.default is None)
            line = f"{key} = {value}"
            if value == "{}":  # written out, no single entry could be added below it
                line, off = f'{key}.NAME = "FILE.pem"', True
            lines.append(f"{'# ' * off}{line}  # {field.description}")
        lines.append("")
    return "\n".join(lines)


def a_snapshot() -> Snapshot:
    """An agent at work, in which every metric has a value."""
    counted = dict.fromkeys([name for name in COUNTERS if "<" not in name], 1)
    model = ModelSnapshot(
        release="0" * 64,
        release_name="toy",
        provider="CPUExecutionProvider",
        precision="float32",
        adopted_s=0.0,
        masked=("hum",),
        cached={"hum": 0, "whine": 5},
        slot_bytes=37_000,
        commands={"executing": 1},
        running=Running("probing", 0.5),
    )
    return Snapshot(
        turn_s=time.monotonic(),
        busy_s=1.0,
        online=True,
        refused=(),
        counters={**counted, "refused_E_SIZE": 1},
        latency_counts=(1,) * (len(EDGES_S) + 1),
        latency_sum_s=1.0,
        inbox_depth=0,
        inbox_capacity=256,
        models={OWN_MODEL: model},
        clock_synchronised=True,
    )


def metrics_table() -> str:
    figures = [*Figures(a_snapshot, None, ROOT).collect(), *certificate_figures(datetime.now(timezone.utc))]
    rows = []
    for family in figures:
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = sorted({label for one in family.samples for label in one.labels if label != "le"})
        rows.append((f"`{name}`", family.type, ", ".join(labels) or "-", family.documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def tables() -> dict[str, str]:
    commands = [(f"`edge-agent {name}`", command.get_short_help_str(200)) for name, command in main.commands.items()]
    return {
        "audit": table(("row of the audit log", "says"), ((f"`{name}`", words) for name, words in ROWS.items())),
        "config": config_table(),
        "commands": table(("command", "what it does"), commands),
        "errors": table(("code", "meaning"), ((f"`{code}`", words) for code, words in CODES.items())),
        "events": table(("event", "meaning"), ((f"`{event}`", words) for event, words in EVENTS.items())),
        "metrics": metrics_table(),
        "counters": table(("counter", "counts"), ((f"`{name}`", words) for name, words in COUNTERS.items())),
    }


def with_tables(readme: str) -> str:
    for name, content in tables().items():
        block = f"<!-- {name}: written by make readme -->\n{content}\n<!-- end -->"
        pattern = re.compile(rf"<!-- {name}: written by make readme -->.*?<!-- end -->", re.DOTALL)
        readme, found = pattern.subn(block.replace("\\", r"\\"), readme)
        assert found == 1, f"README.md has {found} blocks for {name}"
    return readme


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
    EXAMPLE.write_text(example())
    for path, content in manual.files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
