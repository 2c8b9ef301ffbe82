"""The state directory of a gateway, as a tool beside its agent uses it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from edge_agent.core.errors import Misconfigured
from edge_agent.files import CREDSTORE, credential, is_folder, storage
from edge_agent.settings import Gateway
from edge_agent.vault import CREDENTIAL, KEYS, MASTER, Vault, given_master_file, read_master


def open_vault(gateway: Gateway, *, create: bool = False) -> Vault:
    """The keys of a gateway, or of one of its models. What root does from here on, it does as the agent's user.

    Args:
        create: whether there need not be any yet. Else a mistyped folder would become a gateway with a key of its own.

    Raises:
        Misconfigured: ``E_KEY`` or ``E_STATE``.
    """
    master = as_owner(gateway)
    with storage("the keys cannot be looked for"):
        if not create and not is_folder(gateway.state_dir / KEYS):
            words = "holds no gateway's state: it has not been started there yet"
            raise Misconfigured("E_STATE", f"{gateway.state_dir} {words}")
    return Vault(gateway.state_dir, master)


def as_owner(gateway: Gateway) -> bytes | None:
    """Read the master key, if it is kept elsewhere, and go on as the agent's user.

    Raises:
        Misconfigured: ``E_KEY`` or ``E_STATE``.
    """
    master = _master(gateway.root_dir, gateway.master_key_file)
    become_owner(gateway.root_dir)
    return master


@cache
def _master(root_dir: Path, configured: Path | None) -> bytes | None:
    """The key that an operator keeps, if he does; once read it is kept, since root gives up what lets him read it."""
    path = given_master_file(configured)
    if path is None and _serves_another(root_dir) and not (root_dir / MASTER).exists():
        path = credential(CREDENTIAL, CREDSTORE)  # not handed to us, but root may read where systemd takes it from
    return read_master(path) if path else None


def become_owner(root_dir: Path) -> None:
    """Go on as the user whose state it is, if root has started us: the agent must be able to read what we write.

    Raises:
        Misconfigured: ``E_STATE``, it belongs to somebody else, and we are not root.
    """
    if not _serves_another(root_dir):
        return
    if os.geteuid() != 0:
        raise Misconfigured("E_STATE", f"{root_dir} belongs to {root_dir.owner()}: run this as root")
    owner = root_dir.stat()
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


def _serves_another(root_dir: Path) -> bool:
    return root_dir.is_dir() and root_dir.stat().st_uid != os.geteuid()
