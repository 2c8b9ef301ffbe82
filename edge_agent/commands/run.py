"""``edge-agent run``: make the agent's parts, wire them, serve until SIGTERM."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import structlog

from edge_agent import logs
from edge_agent.adapters import systemd
from edge_agent.adapters.audit import AuditLog
from edge_agent.adapters.http import HttpServer
from edge_agent.adapters.journal import Journal
from edge_agent.adapters.mqtt import Broker
from edge_agent.adapters.releases import ReleaseStore, read_release
from edge_agent.adapters.windows import WindowCache
from edge_agent.adapters.workplace import Workplace, engines_folder
from edge_agent.agent import Agent, fit_cache
from edge_agent.budget import Budget
from edge_agent.clock import Clock
from edge_agent.config import Config, broker_address, read_config
from edge_agent.core.errors import BrokenRelease, KeyLost, Misconfigured
from edge_agent.erasure import Parts, Publisher
from edge_agent.files import storage, write_atomically
from edge_agent.forgetting import Forgetting
from edge_agent.inbox import Inbox
from edge_agent.jobs import Jobs
from edge_agent.live import LiveModel, refuse_erased
from edge_agent.masks import Masks, erased_classes, unwelcome
from edge_agent.schemas.messages import dump
from edge_agent.schemas.topics import Topics
from edge_agent.serving import Serving
from edge_agent.signing import Signer
from edge_agent.tally import Tally, tolerant
from edge_agent.vault import IDENTITY, Vault, given_master_file, read_master

log = structlog.get_logger(__name__)


def run(config_path: Path) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Raises:
        EdgeAgentError: the agent cannot start, with the reason.
    """
    config = read_config(config_path)
    logs.configure(config.logs.level, config.logs.format)
    with _only_agent(config.gateway.state_dir):
        agent = assemble(config)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        signal.signal(signal.SIGHUP, lambda *_: agent.reload(lambda: read_config(config_path)))
        with _shown(config, agent):
            agent.run()


@contextmanager
def _shown(config: Config, agent: Agent) -> Iterator[None]:
    """Metrics and health over HTTP; without them the agent serves all the same."""
    if config.http.port == 0:
        yield
        return
    host, port = config.http.host, config.http.port
    try:
        server = HttpServer(host, port, lambda: agent.snapshot, config.mqtt.cert_file)
    except OSError as error:
        log.error("http.failed", code="E_CONFIG", reason=f"{host}:{port}: {error.strerror}")
        yield
        return
    server.start()
    try:
        yield
    finally:
        server.stop()


def assemble(config: Config) -> Agent:
    """Make and wire all parts; nothing talks to the broker yet."""
    state_dir = config.gateway.state_dir
    journal = Journal(state_dir / "journal.jsonl")
    if journal.damaged_lines:
        log.error("journal.damaged", lines_given_up=journal.damaged_lines, kept_in="journal.damaged")
    given = given_master_file(config.gateway.master_key_file)
    vault = Vault(state_dir, read_master(given) if given else None)
    store = ReleaseStore(state_dir, vault)
    with tolerant():
        store.sweep()
    clock = Clock(state_dir / "clock")
    audit = AuditLog(state_dir / "audit.jsonl", clock)
    serving = config.serving
    limits = serving.threads, serving.max_abs, serving.max_batch
    live = LiveModel(store, *limits, provider=serving.provider, engines=engines_folder())
    erased = erased_classes(journal.states(), audit.rows)
    live.hide(erased)  # also in a release that knows them, where forget.known_again lets it serve
    refused = erased if config.forget.known_again == "refuse" else frozenset[str]()
    _adopt_first(config.gateway.release, store, live, lambda digest: unwelcome(refused, journal.states(), digest))
    sizes = config.cache.windows_per_class, config.cache.max_bytes, config.cache.recent
    budget = Budget(config.cache.bytes_per_day, time.monotonic)
    cache = WindowCache(state_dir / "cache", vault, *sizes, budget, np.random.default_rng())
    with tolerant():
        fit_cache(cache, live)
    topics, session = Topics(config.base), _next_session(state_dir / "session")
    inbox = Inbox(config.mqtt.in_flight)
    will = dump({"state": "offline", "session": session, "gateway": config.gateway.name})
    broker = Broker(
        broker_address(config.mqtt, config.mqtt.client_id or f"edge-agent-{config.gateway.name}"),
        topics.subscriptions(),
        inbox,
        first=topics.is_command,
        will=(topics.status, will),
        chance=random.Random(),  # noqa: S311 jitter, no secret
    )
    tally = Tally(broker, topics.refused)
    answering = Serving(config.cache, session, topics, broker, live, cache, tally)
    notifier = systemd.from_environment()
    masks = Masks(journal, audit, live, cache)
    others = tally, answering, audit, clock, masks
    agent = Agent(config, session, topics, inbox, broker, store, live, cache, notifier, *others)
    jobs = Jobs(Workplace(state_dir, config.forget.work_dir), cache, live)
    parts = Parts(store, cache, jobs, audit, clock, _identity(vault))
    publish = Publisher(agent.announce, agent.publish_certificate, agent.publish_release)
    agent.forgetting = Forgetting(config, journal, live, masks, parts, publish)
    return agent


def _identity(vault: Vault) -> Signer:
    """The key that certificates are signed with, made at the first start."""
    try:
        return Signer.of_seed(vault.secret(IDENTITY))
    except KeyLost as error:
        signer = Signer.of_seed(vault.make_secret(IDENTITY))
        log.error("identity.replaced", reason=error.reason, public_key=signer.public.fingerprint)
        return signer


def _adopt_first(
    source: Path | None, store: ReleaseStore, live: LiveModel, unwelcome_in: Callable[[str], frozenset[str]]
) -> None:
    """Adopt the current release, else the one in the store that has forgotten most, else the configured one.

    The configured one comes last, and is not even copied if it knows an erased class: a restart must not bring back
    what was destroyed.
    """
    current, problems = store.current(), []
    for name in _candidates(store, current):
        try:
            live.adopt(store.get(name), unwelcome_in(name))
        except BrokenRelease as error:
            log.error("release.refused", release=name[:12], code=error.code, reason=error.reason)
            problems.append(error)
        else:
            if current not in (None, name):
                log.error("release.replaced", wanted=str(current)[:12], release=name[:12])
            return
    if source is not None:
        release = read_release(source)
        refuse_erased(release, unwelcome_in(release.digest))
        live.adopt(store.add(source), unwelcome_in(release.digest))
    elif problems:
        raise problems[0]
    else:
        words = f"{store.folder} is empty; train one (edge-agent train) and name it in gateway.release"
        raise Misconfigured("E_NO_RELEASE", words)


def _candidates(store: ReleaseStore, current: str | None) -> Iterator[str]:
    """The current release; only if that cannot be used are the others looked at."""
    if current is not None:
        yield current
    others = [name for name in reversed(store.digests()) if name != current]
    yield from sorted(others, key=lambda name: -_forgotten(store, name))  # by no clock: a child before its parent


def _forgotten(store: ReleaseStore, name: str) -> int:
    try:
        return len(store.get(name).card.forgotten)
    except BrokenRelease:
        return -1


@contextmanager
def _only_agent(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured("E_STATE", f"{state_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Misconfigured("E_STATE", f"{state_dir} is in use by another agent") from error
    finally:
        os.close(lock)


def _next_session(path: Path) -> int:
    """The number of this start; a file that was damaged starts at the present second, which is larger."""
    try:
        session = int(path.read_text()) + 1
    except FileNotFoundError:
        session = 1
    except (ValueError, OSError):
        session = int(path.stat().st_mtime)
        log.error("session.damaged", path=str(path), session=session)
    with tolerant(), storage("the session number cannot be stored"):
        write_atomically(path, str(session).encode())
    return session
