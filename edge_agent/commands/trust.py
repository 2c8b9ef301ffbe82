"""``edge-agent certificate`` and ``edge-agent audit``: what anybody can check with a gateway's public key alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from edge_agent.adapters import audit
from edge_agent.adapters.child import python
from edge_agent.commands.state import open_vault
from edge_agent.config import read_config
from edge_agent.core.errors import Misconfigured
from edge_agent.schemas.certificate import vouched
from edge_agent.signing import PublicKey, Signer, opened, parse_public_key, read_public_key
from edge_agent.vault import IDENTITY


def public_key(config_path: Path) -> PublicKey:
    """The public key of the gateway that a configuration describes."""
    gateway = read_config(config_path).gateway
    return Signer.of_seed(open_vault(gateway).secret(IDENTITY)).public


def public_key_apart(config_path: Path) -> PublicKey:
    """The same, asked by a process of its own: root becomes the agent's user for it, and could write nothing after.

    Raises:
        Misconfigured: ``E_KEY``, with what the process said.
    """
    command = [*python(), "-m", "edge_agent", "certificate", "key", "--config", str(config_path)]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise Misconfigured("E_KEY", f"the gateway's key cannot be had: {asked.stderr.strip()}")
    return parse_public_key(asked.stdout, str(config_path))


def certificate(path: Path, key_path: Path) -> dict[str, Any]:
    """The content of a certificate whose signature holds.

    Raises:
        Untrusted: ``E_SIGNATURE``.
        Misconfigured: the file or the key cannot be read.
    """
    try:
        document = path.read_bytes()
    except OSError as error:
        raise Misconfigured("E_KEY", f"{path} cannot be read: {error.strerror}") from error
    content = opened(document, read_public_key(key_path))
    vouched(content)
    return content


def in_words(content: dict[str, Any]) -> list[str]:
    """A certificate for people, line by line."""
    command, releases, issued = content["command"], content["releases"], content["issued"]
    trusted = "" if issued["synchronised"] else " (by a clock that was not synchronised)"
    lines = [
        f"gateway {content['gateway']} forgot {', '.join(command['classes'])}",
        f"issued {issued['utc']}{trusted}, command {command['id']}",
        f"release {(releases['before'] or '-')[:12]} -> {(releases['after'] or '-')[:12]}",
    ]
    for name in ("destroyed", "not_destroyed"):
        for one in content[name]:
            about = ", ".join(f"{key} {value}" for key, value in one.items() if key not in ("what", "how"))
            lines.append(f"{name.replace('_', ' ')}: {one['what']}{f' ({about})' if about else ''}: {one['how']}")
    lines += [f"not covered: {words}" for words in content.get("not_covered", [])]  # older certificates have none
    if "master_key" in content:
        lines.append(f"master key: {content['master_key']}")
    lines += [f"gate: {reason['words']}" for reason in content["edit"].get("gate", [])]
    lines.append(f"audit log: row {content['audit']['n']}, hash {content['audit']['hash']}")
    return lines


def check_audit(path: Path, vouched_for: dict[str, Any] | None) -> int:
    """Check a gateway's audit log, and that it still stands by a certificate; returns how many rows it has.

    Raises:
        Untrusted: ``E_CHAIN``, ``E_WITHDRAWN``.
        Misconfigured: it cannot be read.
    """
    head = audit.Head(**vouched_for["audit"]) if vouched_for else None
    command = vouched_for["command"]["id"] if vouched_for else None
    try:
        with path.open("rb") as file:
            return audit.check(file, head, command)
    except OSError as error:
        raise Misconfigured("E_STATE", f"{path} cannot be read: {error.strerror}") from error
