"""The composition root of ``edge-agent run``: all parts of the agent, made and wired."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from edge_agent.adapters import systemd
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.releases import ReleaseStore
from edge_agent.adapters.systemd import Notifier
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace, engines_folder
from edge_agent.adopting import Adopting, fit_cache
from edge_agent.agent import Agent
from edge_agent.budget import Budget
from edge_agent.clock import Clock
from edge_agent.commands.adoption import adopt_first
from edge_agent.commands.orphans import known_in, orphans
from edge_agent.commands.pull import fetcher, first_release, has_whole
from edge_agent.config import broker_address
from edge_agent.core.errors import BrokenRelease, KeyLost, StorageFailed, Unreachable, Untrusted
from edge_agent.discovery import Discovery
from edge_agent.erasure import Parts, Publisher
from edge_agent.files import storage, write_atomically
from edge_agent.followed import RETRY_S, FollowedModel, recorded
from edge_agent.forgetting import Forgetting
from edge_agent.inbox import Inbox
from edge_agent.jobs import Jobs
from edge_agent.live import LiveModel
from edge_agent.masks import Masks, erased_classes, unwelcome
from edge_agent.schemas.messages import dump
from edge_agent.schemas.snapshot import Latency
from edge_agent.schemas.topics import Topics
from edge_agent.schemas.windows import ENVELOPE_BYTES
from edge_agent.served import ServedModel
from edge_agent.serving import Serving
from edge_agent.settings import OWN_MODEL, Config
from edge_agent.signing import Signer
from edge_agent.tally import Tally, tolerant
from edge_agent.vault import IDENTITY, Vault, given_master_file, read_master

log = structlog.get_logger(__name__)

EXTEND_US = 90_000_000  # systemd waits this much longer for READY


@dataclass(frozen=True)
class _Shared:
    """What all models of a gateway have in common."""

    root_dir: Path
    master: bytes | None
    signer: Signer
    topics: Topics
    session: int
    broker: Broker
    clock: Clock
    budget: Budget
    latency: Latency
    discovery: Discovery | None

    @property
    def raw_boot(self) -> str:
        """The boot of raw windows at this start of this gateway."""
        return f"raw-{self.signer.public.fingerprint[:8]}-{self.session}"


def assemble(config: Config) -> Agent:
    """Make and wire all parts; nothing talks to the broker yet."""
    state_dir, topics = config.gateway.state_dir, Topics(config.base)
    given = given_master_file(config.gateway.master_key_file)
    master = read_master(given) if given else None
    clock, latency = Clock(state_dir / "clock"), Latency()
    session, inbox = _next_session(state_dir / "session", clock), Inbox(config.mqtt.in_flight)
    budget = Budget(config.cache.bytes_per_day, time.monotonic)
    signer, models = _identity(Vault(state_dir, master)), list[ServedModel]()
    broker = _broker(config, topics, session, inbox, signer)
    discovery = Discovery(config.mqtt.discovery, config.gateway.name, topics, broker) if config.mqtt.discovery else None
    shared = _Shared(state_dir, master, signer, topics, session, broker, clock, budget, latency, discovery)
    own = config, session, topics, inbox, broker
    notifier = systemd.from_environment()
    others = latency, notifier, clock, discovery
    if config.gateway.mode == "replica":
        return Agent(*own, [_followed(config, shared, notifier)], *others)
    for name in (OWN_MODEL, *config.models):
        models.append(_served(name, config.of_model(name), shared, models))
    inbox.hold(max(model.live.spec.raw_bytes + ENVELOPE_BYTES for model in models))
    return Agent(*own, models, *others)


def _client_id(name: str, signer: Signer) -> str:
    """The name of the session at the broker. Nobody else can guess it, or he could take the session over.

    From the signing key, so that it stays over restarts: signatures of Ed25519 are no others each time.
    """
    return f"edge-agent-{name}-{signer.sign({'session of': name})[:16]}"


def _broker(config: Config, topics: Topics, session: int, inbox: Inbox, signer: Signer) -> Broker:
    will = {"state": "offline", "session": session, "gateway": config.gateway.name}
    leader = Topics(config.replica.of)
    subscriptions = topics.subscriptions(config.mqtt.share, models=bool(config.models))
    if config.gateway.mode == "replica":
        subscriptions = leader.release, leader.shared_windows(config.mqtt.share)
        will["replica_of"] = leader.base
    return Broker(
        broker_address(config.mqtt, config.mqtt.client_id or _client_id(config.gateway.name, signer)),
        subscriptions,
        inbox,
        first=lambda topic: topics.is_command(topic) or topic == leader.release,
        will=(topics.status, dump(will)),
        chance=random.Random(),  # noqa: S311 jitter, no secret
        kept={leader.release},
        stale=_stale(config.gateway.state_dir / "subscriptions", subscriptions),
    )


def _stale(path: Path, subscriptions: tuple[str, ...]) -> list[str]:
    """Subscriptions of earlier starts that are not wanted any more: a session at the broker would go on with them."""
    try:
        before = set(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError):
        before = set()
    if not set(subscriptions) <= before:
        with tolerant(), storage("the subscriptions cannot be stored"):
            write_atomically(path, "\n".join(sorted(before | set(subscriptions))).encode())
    return sorted(before - set(subscriptions))


def _served(name: str, config: Config, shared: _Shared, models: list[ServedModel]) -> ServedModel:
    """One model, with all that is its own.

    Args:
        models: the list that it will stand in, with all the others.
    """
    state_dir, topics = config.gateway.state_dir, Topics(config.base)
    with storage("the model's state directory cannot be made"):
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    journal = Journal(state_dir / "journal.jsonl")
    if journal.damaged_lines:
        log.error("journal.damaged", lines_given_up=journal.damaged_lines, kept_in="journal.damaged", model=name)
    vault = Vault(state_dir, shared.master)
    store = ReleaseStore(state_dir, vault)
    with tolerant():
        store.sweep(wait=True)
    audit = AuditLog(state_dir / "audit.jsonl", shared.clock)
    live = _live_model(name, config, store, journal, audit)
    sizes = config.cache.windows_per_class, config.cache.max_bytes, config.cache.recent
    cache = WindowCache(state_dir / "cache", vault, *sizes, shared.budget, np.random.default_rng())
    with tolerant():
        fit_cache(cache, live)
    masks, tally = Masks(journal, audit, live, cache), Tally(shared.broker, topics.refused)
    outward, alone = (shared.topics, shared.broker), not config.mqtt.share
    serving = Serving(
        config.cache, shared.raw_boot, *outward, live, cache, tally, shared.latency, shared.discovery, alone=alone
    )
    model = ServedModel(name, config, topics, shared.session, shared.broker, tally, live, cache, serving, audit, masks)

    def neighbours(unread: Collection[str]) -> dict[str, set[str]]:
        known = orphans(shared.root_dir, {other.name for other in models}, unread)
        others = [other for other in models if other is not model]
        return known | {other.name: {*other.live.card.living, *known_in(other.state_dir, unread)} for other in others}

    jobs = Jobs(Workplace(state_dir, config.forget.work_dir), cache, live)
    parts = Parts(store, cache, jobs, audit, shared.clock, shared.signer, neighbours)
    publish = Publisher(model.announce, model.publish_certificate, model.publish_release)
    model.forgetting = Forgetting(config, journal, live, masks, parts, publish)
    model.adopting = Adopting(store, live, cache, audit, masks, tally, model.forgetting)
    return model


def _must_hear(config: Config) -> bool:
    """Whether a replica must hear what is hidden before it answers: it has no record of that, or no sound one."""
    try:
        return recorded(config.gateway.state_dir) is None
    except BrokenRelease as error:
        log.error("storage.failed", code=error.code, reason=error.reason)
        return True


def _await_release(config: Config, store: ReleaseStore, notifier: Notifier) -> None:
    """A new replica answers once the gateway that it follows has announced what it serves and hides."""

    def extend(_: int = 0) -> None:
        notifier.send(f"EXTEND_TIMEOUT_USEC={EXTEND_US}", "STATUS=waiting for the first release")

    while True:
        try:
            first_release(config, store, progress=extend)
        except (Unreachable, BrokenRelease, Untrusted, StorageFailed) as error:
            log.warning("release.awaited", code=error.code, reason=error.reason, next_try_s=RETRY_S)
            extend()
            time.sleep(RETRY_S)
        else:
            return


def _followed(config: Config, shared: _Shared, notifier: Notifier) -> FollowedModel:
    """The model of a replica."""
    state_dir, leader = config.gateway.state_dir, Topics(config.replica.of)
    store = ReleaseStore(state_dir, Vault(state_dir, shared.master))
    with tolerant():
        store.sweep(wait=True)
    if _must_hear(config) or (config.gateway.release is None and not has_whole(store)):
        _await_release(config, store, notifier)
    tally, live = Tally(shared.broker, shared.topics.refused), _empty(OWN_MODEL, config, store)
    adopt_first(config.gateway.release, store, live, lambda _: frozenset())
    answering = Serving(
        config.cache, shared.raw_boot, leader, shared.broker, live, None, tally, shared.latency, alone=False
    )
    fetch, own = fetcher(config), (shared.topics, leader, shared.session, shared.broker)
    return FollowedModel(OWN_MODEL, config, *own, tally, store, live, answering, shared.clock, fetch)


def _empty(name: str, config: Config, store: ReleaseStore) -> LiveModel:
    """A live model that has adopted no release yet."""
    serving = config.serving
    limits = serving.threads, serving.max_abs, serving.max_batch
    return LiveModel(
        store, *limits, provider=serving.provider, engines=engines_folder(name), precision=serving.precision
    )


def _live_model(name: str, config: Config, store: ReleaseStore, journal: Journal, audit: AuditLog) -> LiveModel:
    """Adopt a release, with everything hidden that was erased."""
    live = _empty(name, config, store)
    erased = erased_classes(journal.states(), audit.rows)
    live.hide(erased)  # also in a release that knows them, where forget.known_again lets it serve
    refused = erased if config.forget.known_again == "refuse" else frozenset[str]()
    adopt_first(config.gateway.release, store, live, lambda digest: unwelcome(refused, journal.states(), digest))
    return live


def _identity(vault: Vault) -> Signer:
    """The key that certificates are signed with, made at the first start."""
    try:
        return Signer.of_seed(vault.secret(IDENTITY))
    except KeyLost as error:
        signer = Signer.of_seed(vault.make_secret(IDENTITY))
        log.error("identity.replaced", reason=error.reason, public_key=signer.public.fingerprint)
        return signer


def _next_session(path: Path, clock: Clock) -> int:
    """The number of this start: larger than any before, of a state that was put back from a copy as well.

    It is the present second, or the latest known; where the clock has gone back, the next number. On a full disk it is
    written over the old one, for one that comes twice would make two starts one: to replicas, and in the identities of
    raw windows.
    """
    session = int(clock.latest().timestamp())
    try:
        session = max(session, int(path.read_text()) + 1)
    except FileNotFoundError:
        pass
    except (ValueError, OSError):
        log.error("session.damaged", path=str(path), session=session)
    with tolerant(), storage("the session number cannot be stored"):
        try:
            write_atomically(path, str(session).encode())
        except OSError:
            with path.open("r+b", buffering=0) as file:
                file.write(str(session).encode())
                os.fsync(file.fileno())
    return session
