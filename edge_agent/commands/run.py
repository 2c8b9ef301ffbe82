"""``edge-agent run``: serve until SIGTERM, as the only agent of a state directory."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from edge_agent import logs
from edge_agent.adapters import heap, threads
from edge_agent.adapters.http import HttpServer
from edge_agent.adapters.mqtt import BROKER
from edge_agent.agent import Agent
from edge_agent.commands.assembly import assemble
from edge_agent.config import read_config
from edge_agent.core.errors import EdgeAgentError, Misconfigured
from edge_agent.settings import Config

PAHO: Final = "paho-mqtt-client"  # its threads are called so, with the client's id behind it
HTTP_RETRY_S: Final = 60.0

log = structlog.get_logger(__name__)


def run(config_path: Path) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Raises:
        EdgeAgentError: the agent cannot start, with the reason.
    """
    config = read_config(config_path)
    logs.configure(config.logs.level, config.logs.format)
    heap.share()  # before there are threads
    threads.end_with(BROKER, PAHO)
    try:
        _serve(config_path, config)
    except EdgeAgentError as error:  # whoever reads the log's JSON alone would miss the line that the tool prints
        log.error("agent.failed", code=error.code, reason=error.reason)
        raise


def _serve(config_path: Path, config: Config) -> None:
    with _only_agent(config.gateway.state_dir):
        agent = assemble(config)
        heap.settle()

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
    servers, ended = [_http(config, agent)], threading.Event()

    def try_again() -> None:
        while servers[-1] is None and not ended.wait(HTTP_RETRY_S):
            servers.append(_http(config, agent))

    threading.Thread(target=try_again, name="http-retry", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if servers[-1] is not None:
            servers[-1].stop()


def _http(config: Config, agent: Agent) -> HttpServer | None:
    """A server that has begun, or None: the port may be taken for now, and the address come late."""
    host, port = config.http.host, config.http.port
    try:
        server = HttpServer(host, port, lambda: agent.snapshot, config.mqtt.cert_file, config.gateway.state_dir)
    except (OSError, ValueError) as error:  # ValueError: no host could be called so
        reason = error.strerror if isinstance(error, OSError) else error
        log.error("http.failed", code="E_CONFIG", reason=f"{host}:{port}: {reason}", next_try_s=HTTP_RETRY_S)
        return None
    server.start()
    return server


@contextmanager
def _only_agent(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured("E_STATE", f"{state_dir} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Misconfigured("E_STATE", f"{state_dir} is in use by another agent") from error
        yield
    finally:
        os.close(lock)
