"""The state directory of a gateway, as a tool beside its agent uses it."""

from __future__ import annotations

import os
from pathlib import Path

from edge_agent.config import Gateway, gateway_dir
from edge_agent.core.errors import Misconfigured
from edge_agent.files import CREDSTORE, credential
from edge_agent.vault import CREDENTIAL, MASTER, Vault, given_master_file, read_master


def open_vault(gateway: Gateway) -> Vault:
    """The keys of a gateway. What root does with them from here on, it does as the agent's user.

    Raises:
        Misconfigured: ``E_KEY`` or ``E_STATE``.
    """
    state_dir = gateway.state_dir
    path = given_master_file(gateway.master_key_file)
    if path is None and _serves_another(state_dir) and not (state_dir / MASTER).exists():
        path = credential(CREDENTIAL, CREDSTORE)  # not handed to us, but root may read where systemd takes it from
    master = read_master(path) if path else None
    become_owner(state_dir)
    return Vault(state_dir, master)


def become_owner(state_dir: Path) -> None:
    """Go on as the user whose state it is, if root has started us: the agent must be able to read what we write.

    Raises:
        Misconfigured: ``E_STATE``, it belongs to somebody else, and we are not root.
    """
    if not _serves_another(state_dir):
        return
    if os.geteuid() != 0:
        raise Misconfigured("E_STATE", f"{state_dir} belongs to {gateway_dir(state_dir).owner()}: run this as root")
    owner = gateway_dir(state_dir).stat()
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


def _serves_another(state_dir: Path) -> bool:
    root = gateway_dir(state_dir)
    return root.is_dir() and root.stat().st_uid != os.geteuid()
