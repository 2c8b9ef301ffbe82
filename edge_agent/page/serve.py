"""``edge-agent page``: serve the gateway's page until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog
import uvicorn

from edge_agent import logs
from edge_agent.adapters import systemd, threads
from edge_agent.config import broker_address, read_broker, read_config, read_secret
from edge_agent.core.errors import Unreachable
from edge_agent.mqtt_client import BrokerAddress
from edge_agent.page.app import Page, application
from edge_agent.page.asking import Doorman
from edge_agent.page.assets import built_whole
from edge_agent.page.listener import Listener
from edge_agent.page.plant import Model, Plant
from edge_agent.page.records import Records
from edge_agent.schemas.topics import Topics
from edge_agent.settings import OWN_MODEL, Config

log = structlog.get_logger(__name__)

NICE = 15  # serving and forgetting go first, whoever has started this
STOP_S = 2  # open event streams are cut after it
KEEPALIVE_S = 5


def serve(config_path: Path) -> None:
    """Serve the page that a configuration describes.

    Raises:
        Misconfigured: it cannot start, with the reason.
        Unreachable: it cannot listen now.
    """
    config = read_config(config_path)
    logs.configure(config.logs.level, config.logs.format)
    os.nice(NICE)
    built_whole()
    threads.end_with("")  # without its ear the page would go on showing what was
    configs = {name: config.of_model(name) for name in [OWN_MODEL, *config.models]}
    models = {name: Model(one.gateway.name, Topics(one.base)) for name, one in configs.items()}
    plant = Plant(config.gateway.name, Topics(config.base), models)
    token = read_secret("page.token_file", config.page.token_file)
    page = Page(
        plant,
        {name: Records(one.gateway.state_dir) for name, one in configs.items()},
        _address(config),
        Doorman(token, config.page.user_header, config.commands.signed),
    )
    hosts = (*config.page.hosts, config.page.host)
    app = application(page, hosts, lambda _: _listening(page, Topics(config.base)))
    settings = uvicorn.Config(
        app, config.page.host, config.page.port, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn ends on them, then raises them once more
        signal.signal(number, lambda *_: None)
    _Server(settings).run(_sockets(config.page.host, config.page.port))


def _sockets(host: str, port: int) -> list[socket.socket]:
    """Listen at every address of a name.

    Raises:
        Unreachable: ``E_CONFIG``; it may only be for now, at a start before the machine has its address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:  # ValueError: no host could be called so
        raise Unreachable("E_CONFIG", f"page.host, page.port: {host} is no address: {error}") from error
    sockets, problem = list[socket.socket](), ""
    for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
        try:
            sockets.append(socket.create_server(where, family=family))
        except OSError as error:  # a machine may have no IPv6, and a name an address of either kind
            problem = str(error.strerror)
    if not sockets:
        raise Unreachable("E_CONFIG", f"page.host, page.port: {host}:{port} cannot be listened at: {problem}")
    return sockets


class _Server(uvicorn.Server):
    """Says that it is ready once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind the port."""
        await super().startup(sockets)
        if self.started:
            systemd.from_environment().send("READY=1")
            log.info("page.started", address=f"http://{self.config.host}:{self.config.port}/")


def _address(config: Config) -> BrokerAddress:
    mqtt = config.mqtt if config.page.broker_file is None else read_broker(config.page.broker_file)
    # Without a name, the broker gives each client one; and people shall soon see that it is gone.
    return replace(broker_address(mqtt, ""), session_expiry_s=0, keepalive_s=KEEPALIVE_S)


@asynccontextmanager
async def _listening(page: Page, topics: Topics) -> AsyncIterator[None]:
    """Listen while the application runs; what is heard is taken in by the event loop's thread."""
    loop, plant = asyncio.get_running_loop(), page.plant

    def tell(*, connected: bool, reason: str) -> None:
        event = log.info if connected else log.warning
        event("broker.connected" if connected else "broker.disconnected", reason=reason)
        loop.call_soon_threadsafe(lambda: plant.link(connected=connected, reason=reason))

    listener = Listener(
        page.address,
        plant.subscriptions(),
        topics.windows,
        lambda: [asset for asset in tuple(plant.watched) if asset],  # a copy: this thread is not its owner
        lambda come: loop.call_soon_threadsafe(plant.hear, come, time.monotonic()),
        lambda connected, reason: tell(connected=connected, reason=reason),
    )
    listener.start()
    try:
        yield
    finally:
        systemd.from_environment().send("STOPPING=1")
        await loop.run_in_executor(None, listener.stop)
        log.info("page.stopped")
