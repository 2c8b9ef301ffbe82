"""``edge-agent check``: would the agent start and work here? One finding per thing looked at, each with a remedy."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates

from edge_agent.adapters.onnx_session import providers
from edge_agent.adapters.releases import read_release
from edge_agent.adapters.windows import window_bytes
from edge_agent.adapters.workplace import IN_MEMORY, file_system
from edge_agent.clock import Clock
from edge_agent.clock import read as read_clock
from edge_agent.commands.client import connected
from edge_agent.commands.orphans import orphans
from edge_agent.commands.releases import store_of, tombstones
from edge_agent.commands.state import as_owner
from edge_agent.config import broker_address, read_broker, read_config, read_secret
from edge_agent.core.errors import BrokenRelease, EdgeAgentError, Misconfigured, StorageFailed, Unreachable
from edge_agent.files import size_of
from edge_agent.live import opened, refuse_erased
from edge_agent.mqtt_client import BrokerAddress, tls
from edge_agent.schemas.card import CARD, Card
from edge_agent.settings import MODELS, OWN_MODEL, Config
from edge_agent.signing import read_public_key

EARLIEST_S = 1_760_000_000  # October 2025: an earlier wall clock has not been set
SPARE_BYTES = 512 << 20
FEWEST_DAYS = 14  # of a certificate
AHEAD = timedelta(hours=1)  # of the wall clock
OTHERS, OTHERS_WRITE = 0o007, 0o002


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    passed: bool
    words: str
    remedy: str = ""


def check(config_path: Path) -> Iterator[Finding]:
    """Look at configuration, access, state directory, disk, TLS, clock, release and broker, in this order."""
    try:
        config = read_config(config_path)
    except Misconfigured as error:
        yield Finding("config", False, error.reason, "compare the file with agent.example.toml")
        return
    yield Finding("config", True, f"{config_path} is valid")
    yield from _permissions(config_path, config)
    address = _address(config)  # while root may still read what is meant for the agent
    try:
        as_owner(config.gateway)  # what root can read and write says nothing of the agent
    except Misconfigured as error:
        yield Finding("access", False, error.reason, "run this as root, or as the agent's user")
        return
    yield from _state(config)
    yield from _tls(config)
    yield from _files(config)
    yield from _workplace(config)
    yield _clock(config)
    for name in (OWN_MODEL, *config.models):
        yield from _release(config.of_model(name))
        yield from _source(config.of_model(name))
    yield from _orphans(config)
    yield _broker(config, address)


def _address(config: Config) -> BrokerAddress | Misconfigured:
    try:
        return broker_address(config.mqtt, f"edge-agent-check-{os.getpid()}")
    except Misconfigured as error:
        return error


def _state(config: Config) -> Iterator[Finding]:
    folder = config.gateway.state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    remedy = f"create {folder} and give it to the agent's user"
    yield Finding("state", usable, f"{existing} is {'writable' if usable else 'not writable'}", remedy)
    caches = [folder / "cache", *folder.glob("models/*/cache")]
    used = sum(size_of(path) for path in caches if path.is_dir())
    free, wanted = shutil.disk_usage(existing).free, max(0, config.cache.max_bytes - used) + SPARE_BYTES
    words = f"{free / 2**20:.0f} MiB free, cache and releases may take {wanted / 2**20:.0f} MiB"
    yield Finding("disk", free >= wanted, words, "free some space or lower cache.max_bytes")


def _workplace(config: Config) -> Iterator[Finding]:
    """Whether jobs run where they were told to; elsewhere they do without a word, on the disk if need be."""
    place = config.forget.work_dir
    if place is None:
        return
    kind, usable = file_system(place), os.access(place, os.W_OK | os.X_OK)
    where = "is not there" if not kind else "is in memory" if kind in IN_MEMORY else f"is on {kind}, not in memory"
    words = f"{place} {where}{'' if usable or not kind else ' and not writable'}"
    remedy = (
        "name a folder on a tmpfs that the agent may write, or leave forget.work_dir out: jobs would run on the disk"
    )
    yield Finding("work_dir", usable and kind in IN_MEMORY, words, remedy)


def _permissions(config_path: Path, config: Config) -> Iterator[Finding]:
    """What nobody else may write, and what nobody else may read."""
    gateway, mqtt = config.gateway, config.mqtt
    tokens = config.releases.token_file, config.page.token_file
    private = [gateway.state_dir, gateway.master_key_file, mqtt.password_file, mqtt.key_file, *tokens]
    believed = *config.commands.keys.values(), *config.releases.keys.values()
    rules = [(path, OTHERS_WRITE) for path in (config_path, *believed)] + [(path, OTHERS) for path in private if path]
    try:
        open_ones = [(path, mask) for path, mask in rules if path.exists() and path.stat().st_mode & mask]
    except OSError as error:
        yield Finding("access", False, str(error), "run this as root, or as the agent's user")
        return
    for path, mask in open_ones:
        mode = f"{path.stat().st_mode & 0o777:04o}"
        may = "write" if mask == OTHERS_WRITE else "read or write"
        yield Finding(
            "access",
            False,
            f"others may {may} {path} (mode {mode})",
            f"chmod o-{'w' if mask == OTHERS_WRITE else 'rwx'} {path}",
        )
    if not open_ones:
        yield Finding("access", True, "nobody else can read or write what is the agent's")


def _tls(config: Config) -> Iterator[Finding]:
    """Whether the certificates fit, and for how long they hold."""
    mqtt = config.mqtt
    if mqtt.ca_file is None:
        return
    remedy = "renew it (deploy/pki.sh), or correct the [mqtt] section"
    try:
        tls(broker_address(mqtt, "check"))
    except (OSError, Misconfigured) as error:
        yield Finding("tls", False, str(error), remedy)
        return
    for path in filter(None, (mqtt.ca_file, mqtt.cert_file)):
        ends = min(one.not_valid_after_utc for one in load_pem_x509_certificates(path.read_bytes()))
        days = (ends - datetime.now(timezone.utc)) / timedelta(days=1)
        words = f"{path} holds until {ends:%Y-%m-%d}, {days:.0f} days"
        yield Finding("tls", days > FEWEST_DAYS, words, remedy)


def _files(config: Config) -> Iterator[Finding]:
    """Keys and secrets without which agent or page would not start."""
    try:
        for path in (*config.commands.keys.values(), *config.releases.keys.values()):
            read_public_key(path)
        read_secret("releases.token_file", config.releases.token_file)
        read_secret("page.token_file", config.page.token_file)
        if config.page.broker_file is not None:
            read_broker(config.page.broker_file)
    except Misconfigured as error:
        yield Finding("keys", False, error.reason, "bring the file, readable for the agent's user, or correct its path")
    else:
        yield Finding("keys", True, "every key and token that the configuration names can be read")


def _clock(config: Config) -> Finding:
    """Unset it is wrong; unsynchronised only where signed commands hang on it: else certificates say so."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    remedy = "set the clock (timedatectl set-ntp true); commands with expires_at need it"
    synchronised = read_clock().synchronised
    passed = time.time() >= EARLIEST_S and not (config.commands.signed and synchronised is False)
    words = {True: ", synchronised", False: ", not synchronised", None: ""}[synchronised]
    floor = Clock(config.gateway.state_dir / "clock")
    if floor.latest() > datetime.now(timezone.utc) + AHEAD:
        words += f"; a synchronised clock said {floor.latest():%Y-%m-%d %H:%M} before, and commands expire by that"
        remedy, passed = f"if that was wrong, stop the agent and delete {config.gateway.state_dir / 'clock'}", False
    return Finding("clock", passed, f"the wall clock says {now}{words}", remedy)


def _release(config: Config) -> Iterator[Finding]:
    """Verify the release that the agent would serve, and run its self-test."""
    source = config.gateway.release
    remedy = "train one (edge-agent train) and name it in the configuration, or edge-agent releases install"
    try:
        store = store_of(config) if (config.gateway.state_dir / "releases").is_dir() else None
        name = (store.wanted() or store.current()) if store else None
        if store and name:
            release = store.get(name)
        elif source is not None:
            release = read_release(source)
        elif config.gateway.mode == "replica":
            yield Finding("release", True, f"none yet; the first start fetches one from {config.replica.source}")
            return
        else:
            yield Finding(
                "release", False, f"{config.gateway.name} has no live release, and none is configured", remedy
            )
            return
        serving = config.serving
        loaded = opened(release, serving.threads, providers(serving.provider, None), serving.precision)
    except (BrokenRelease, Misconfigured, StorageFailed) as error:
        yield Finding("release", False, f"{error.code}: {error.reason}", remedy)
        return
    if loaded.precision != serving.precision:
        words = f"{release.digest[:12]} has no model of {serving.precision} that runs here, {loaded.precision} serves"
        yield Finding("release", False, words, "make one with edge-agent quantise, or take serving.precision out")
        return
    forgotten = f", forgotten: {', '.join(release.card.forgotten)}" if release.card.forgotten else ""
    yield Finding("release", True, f"{release.digest[:12]} {release.card.name}{forgotten}")
    yield from _room(config, release.card)


def _room(config: Config, card: Card) -> Iterator[Finding]:
    """Whether as many windows fit the cache as a class needs to be forgotten."""
    least, size = config.forget.min_windows, window_bytes(len(card.channels), card.length)
    fit = min(config.cache.windows_per_class, config.cache.max_bytes // size // len(card.classes))
    if config.gateway.mode == "agent" and fit < least:
        words = f"the cache has room for {fit} windows of a class, forget.min_windows is {least}: none can be forgotten"
        yield Finding("cache", False, words, f"raise cache.max_bytes to {least * size * len(card.classes)} or more")


def _source(config: Config) -> Iterator[Finding]:
    """The folder that gateway.release names may still know what was erased here; the agent cannot delete it."""
    source = config.gateway.release
    try:
        erased = tombstones(config.gateway.state_dir)
    except EdgeAgentError as error:
        yield Finding("source", False, error.reason, "what was erased here cannot be read: see the other findings")
        return
    if source is None or not erased or not (source / CARD).exists():
        return
    try:
        release = read_release(source)
    except (BrokenRelease, StorageFailed):
        return  # it can bring nothing back
    remedy = f"delete {source} and take gateway.release out of the configuration"
    try:
        refuse_erased(release.card, erased)
    except BrokenRelease as error:
        yield Finding("source", False, f"{source}: {error.reason}", remedy)
    else:
        yield Finding("source", True, f"{source} knows no erased class")


def _orphans(config: Config) -> Iterator[Finding]:
    try:
        left = orphans(config.gateway.state_dir, config.models)
    except StorageFailed as error:
        yield Finding("models", False, error.reason, "see what the kernel says of the disk: journalctl -k")
        return
    for name, known in left.items():
        folder = config.gateway.state_dir / MODELS / name
        words = f"{folder} is of no model of the configuration, and may know {', '.join(sorted(known)) or 'nothing'}"
        yield Finding("models", False, words, f"name it in the configuration again, or delete it: rm -r {folder}")


def _broker(config: Config, address: BrokerAddress | Misconfigured) -> Finding:
    mqtt = config.mqtt
    remedy = "start the broker or correct the [mqtt] section"
    try:
        if isinstance(address, Misconfigured):
            raise address
        with connected(address):
            return Finding("broker", True, f"{mqtt.host}:{mqtt.port} accepts the connection")
    except (Misconfigured, Unreachable) as error:
        return Finding("broker", False, error.reason, remedy)
