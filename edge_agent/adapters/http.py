"""``/metrics`` for Prometheus, ``/healthz`` and ``/readyz``, from the newest snapshot; it never asks the main thread.

Nobody is asked who he is: it belongs on the loopback interface, or behind a proxy that asks.
"""

from __future__ import annotations

import json
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, ClassVar, Final

from cryptography.x509 import load_pem_x509_certificate
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_agent.schemas.messages import COUNTERS
from edge_agent.schemas.snapshot import EDGES_S, Snapshot
from edge_agent.schemas.topics import WINDOWS

LONGEST_TURN_S: Final = 30.0  # without a finished turn, the agent is taken for hung; systemd's watchdog waits longer
REQUEST_S: Final = 10.0
PREFIX: Final = "edge_agent_"
Look = Callable[[], Snapshot | None]


class HttpServer:
    """Answers in threads of its own until ``stop``.

    Args:
        look: gives the newest snapshot; None before the first.
        cert_file: the client certificate whose end is shown.
        state_dir: on the disk whose room is shown.

    Raises:
        OSError: the address is not known, or cannot be bound.
        ValueError: it is no address.
    """

    def __init__(self, host: str, port: int, look: Look, cert_file: Path | None, state_dir: Path) -> None:
        registry = CollectorRegistry()
        registry.register(Figures(look, cert_file, state_dir))
        ProcessCollector(registry=registry)
        handler = type("Handler", (_Handler,), {"look": staticmethod(look), "registry": registry})
        self._server = _Server(host, port, handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        families = {family for family, *_ in found}
        # A name that is both, like localhost, is asked for over IPv4 by most who scrape it.
        self.address_family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name, which nobody reads and which waits where no resolver answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a peer that hung up: the default writes a traceback between the lines of the log."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    look: ClassVar[Look]
    registry: ClassVar[CollectorRegistry]
    timeout = REQUEST_S
    server_version, sys_version = "edge-agent", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._send(200, kind, encode(self.registry))
        elif path == "/healthz":
            self._state(alive(type(self).look(), time.monotonic()))
        elif path == "/readyz":
            self._state(ready(type(self).look(), time.monotonic()))
        else:
            self._send(404, "text/plain; charset=utf-8", b"/metrics, /healthz, /readyz\n")

    def _state(self, problem: str | None) -> None:
        content = json.dumps({"ok": problem is None, "reason": problem}).encode()
        self._send(503 if problem else 200, "application/json", content)

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a scrape every few seconds is no event."""


def alive(seen: Snapshot | None, now_s: float) -> str | None:
    """Why the agent does not live, or None."""
    if seen is None:
        return "it is starting"
    age_s = now_s - seen.turn_s
    return None if age_s < LONGEST_TURN_S else f"no turn for {age_s:.0f} s, limit {LONGEST_TURN_S:.0f} s"


def ready(seen: Snapshot | None, now_s: float) -> str | None:
    """Why windows are not answered now, or None."""
    if (problem := alive(seen, now_s)) is not None or seen is None:
        return problem
    if not seen.online:
        return "no connection to the broker"
    deaf = [topic for topic in seen.refused if topic.endswith(WINDOWS)]
    return f"the broker does not let the agent listen to {', '.join(deaf)}" if deaf else None


class Figures(Collector):
    """The snapshot in Prometheus's words. Names end in their unit; a counter's in ``_total``."""

    def __init__(self, look: Look, cert_file: Path | None, state_dir: Path) -> None:
        self._look, self._cert_file, self._state_dir = look, cert_file, state_dir

    def collect(self) -> Iterator[Metric]:
        """All figures; none before the first snapshot."""
        seen = self._look()
        if seen is None:
            return
        yield from _windows(seen)
        yield from _state(seen)
        yield from _forgetting(seen)
        with suppress(OSError):
            free = shutil.disk_usage(self._state_dir).free
            yield GaugeMetricFamily(PREFIX + "disk_free_bytes", "On the disk of the state directory.", free)
        if self._cert_file is not None and (ends := _end_of(self._cert_file)) is not None:
            yield from certificate_figures(ends)


def _windows(seen: Snapshot) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(PREFIX + "windows", "Windows by what became of them.", labels=["outcome"])
    refused = CounterMetricFamily(PREFIX + "messages_refused", "Messages refused, by code.", labels=["code"])
    others = []
    for name, count in sorted(seen.counters.items()):
        if name.startswith("windows_"):
            outcomes.add_metric([name.removeprefix("windows_")], count)
        elif name.startswith("refused_"):
            refused.add_metric([name.removeprefix("refused_")], count)
        else:
            others.append(CounterMetricFamily(PREFIX + name, f"{COUNTERS[name]}.".capitalize(), value=count))
    yield from (outcomes, refused, *others)
    below, buckets = 0, []
    for edge_s, count in zip((*EDGES_S, float("inf")), seen.latency_counts, strict=True):
        below += count
        buckets.append(("+Inf" if edge_s == float("inf") else str(edge_s), float(below)))
    words = "From a window's arrival to its diagnosis."
    yield HistogramMetricFamily(PREFIX + "latency_seconds", words, buckets=buckets, sum_value=seen.latency_sum_s)
    yield GaugeMetricFamily(PREFIX + "inbox_messages", "Messages that wait for the main thread.", seen.inbox_depth)
    yield GaugeMetricFamily(PREFIX + "inbox_capacity_messages", "How many may.", seen.inbox_capacity)


def _state(seen: Snapshot) -> Iterator[Metric]:
    now_s = time.monotonic()
    yield GaugeMetricFamily(PREFIX + "broker_connected", "1 with a connection to the broker.", seen.online)
    words = "In which the main thread did not wait for messages."
    yield CounterMetricFamily(PREFIX + "busy_seconds", words, seen.busy_s)
    words = "Subscriptions that the broker does not grant."
    yield GaugeMetricFamily(PREFIX + "subscriptions_refused", words, len(seen.refused))
    yield GaugeMetricFamily(PREFIX + "turn_age_seconds", "Since the last finished turn.", now_s - seen.turn_s)
    release = InfoMetricFamily(PREFIX + "release", "The live release, and what runs it.", labels=["model"])
    age = GaugeMetricFamily(PREFIX + "release_age_seconds", "Since it went live.", labels=["model"])
    for model, one in seen.models.items():
        told = {"digest": one.release, "name": one.release_name, "provider": one.provider, "precision": one.precision}
        release.add_metric([model], told)
        age.add_metric([model], now_s - one.adopted_s)
    yield from (release, age)
    if seen.clock_synchronised is not None:
        words = "1 if the wall clock is synchronised."
        yield GaugeMetricFamily(PREFIX + "clock_synchronised", words, seen.clock_synchronised)


def _forgetting(seen: Snapshot) -> Iterator[Metric]:
    by_class, words = ["model", "class"], "Forget commands of the journal, by status."
    windows = GaugeMetricFamily(PREFIX + "cache_windows", "Cached windows, by class.", labels=by_class)
    stored = GaugeMetricFamily(PREFIX + "cache_bytes", "Bytes that they take.", labels=by_class)
    masked = GaugeMetricFamily(PREFIX + "class_masked", "1 for a class that no answer names.", labels=by_class)
    commands = GaugeMetricFamily(PREFIX + "commands", words, labels=["model", "status"])
    words = "Of the forget job, by its phase."
    phase = GaugeMetricFamily(PREFIX + "job_progress_ratio", words, labels=["model", "phase"])
    for model, one in seen.models.items():
        for name, count in sorted(one.cached.items()):
            windows.add_metric([model, name], count)
            stored.add_metric([model, name], count * one.slot_bytes)
            masked.add_metric([model, name], name in one.masked)
        for status, count in sorted(one.commands.items()):
            commands.add_metric([model, status], count)
        if one.running is not None:
            phase.add_metric([model, one.running.phase], one.running.progress)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield from (windows, stored, masked, commands, phase)
    cpu_s, words = used.ru_utime + used.ru_stime, "Processor time of all forget jobs that ended."
    yield CounterMetricFamily(PREFIX + "jobs_cpu_seconds", words, value=cpu_s)
    words = "Largest resident memory of a forget job."
    yield GaugeMetricFamily(PREFIX + "job_peak_memory_bytes", words, used.ru_maxrss * 1024)


def certificate_figures(ends: datetime) -> Iterator[Metric]:
    """Of a client certificate that ends then."""
    words = "When the client certificate ends, Unix time."
    yield GaugeMetricFamily(PREFIX + "certificate_expiry_timestamp_seconds", words, ends.timestamp())


def _end_of(path: Path) -> datetime | None:
    try:
        return load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
