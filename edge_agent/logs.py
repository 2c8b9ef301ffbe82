"""Log output: structlog, one event per line on standard error. Events are API: ``noun.past_participle`` and keys."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog

EVENTS: Final[dict[str, str]] = {
    "agent.failed": "The agent cannot start, or cannot go on, and ends; code, reason.",
    "agent.started": "The agent serves; with version, session and release.",
    "agent.stopped": "The agent has ended cleanly; with all counters.",
    "broker.connected": "The broker accepted the connection; protocol, session_present.",
    "broker.disconnected": "The connection ended or could not be made; reason.",
    "cache.dropped": "Cached windows were destroyed: the release that came knows their class or shape no more.",
    "cache.failed": "A window could not be cached; serving goes on.",
    "certificate.lost": "The file of a certificate is gone; what the broker has kept of it is left there.",
    "certificate.renewed": "A file of the client certificate or the CA has changed; the agent connects again.",
    "class.erased": "A forget command has succeeded; classes, windows erased, job_s.",
    "class.revived": "An operator allowed a forgotten class to come back with a later release; name.",
    "command.accepted": "A forget command is recorded and its classes are masked.",
    "command.failed": "A forget command ended without a new model; code, reason.",
    "config.refused": "SIGHUP: the new configuration cannot be taken over; code, reason.",
    "config.reloaded": "SIGHUP: the new configuration is in force; changed keys.",
    "identity.replaced": "The signing key was damaged and a new one was made: its public key must be trusted anew.",
    "inbox.overflowed": "A message found no room for 2 s; the agent reconnects, the broker sends it again.",
    "http.failed": "Metrics and health cannot be shown (E_CONFIG); serving goes on, and it is tried again.",
    "job.started": "The child process of a forget command runs; id, attempt, pid.",
    "journal.damaged": "Lines of the journal were given up; they are kept in journal.damaged.",
    "message.lost": "A message could not be handed over: a bug; with traceback.",
    "message.refused": "A message is refused; topic, code, reason, bytes, digest.",
    "message.garbled": "The MQTT client cannot read a message that the broker passed on; MQTT 3.1.1 is tried.",
    "model.failed": "The model could not be run on a window, which waits, as others may after it; code, reason.",
    "model.started": "A model serves; model (its name in the configuration, gateway for the gateway's own), release.",
    "provider.missed": "An execution provider is not to be had; the next best runs the model; providers, reason.",
    "precision.missed": "No int8 model, or it does not run here; float32 serves; release, precision, reason.",
    "page.started": "The page can be opened; address.",
    "page.stopped": "The page ended as it was asked to.",
    "thread.died": "A thread ended by an error, and with it the page, or the agent; systemd starts it again.",
    "publish.refused": "The broker refused a publish, by its ACL or quota; reason, count (the first and every 600th).",
    "announcement.outdated": "A replica has heard of an older state of the gateway that it follows; release, order.",
    "release.awaited": "A new replica cannot have its first release yet; code, reason, next_try_s.",
    "release.adopted": "Another release serves; reason is forget, operator, or what was wrong with the one before.",
    "release.destroyed": "A stored release that knew an erased class is gone.",
    "release.refused": "A release cannot be used; code, reason.",
    "release.replaced": "The current release cannot be used, another one serves.",
    "shadow.started": "After the gate, the new model answers live windows unheard; id, windows.",
    "storage.failed": "A file could not be written or read (disk full, read-only); serving goes on, it is tried again.",
    "subscription.refused": "The broker's ACL does not let the agent listen to these topics.",
    "windows.recalled": "The model can be run again; the broker sends what had been left to it beyond 256 windows.",
    "wish.refused": "A class cannot be revived: on probation, or not forgotten here; name, reason.",
    "session.damaged": "The session counter was damaged and starts anew.",
}


class _Lines(io.TextIOBase):
    """Standard error, as it is by now; a line that cannot be written, as on a full disk, is lost and stops nothing."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure(level: str, style: str) -> None:
    """Set up logging; ``style`` is ``json`` or ``text``. May be called again to change the level."""
    renderer: structlog.typing.Processor
    renderer = structlog.dev.ConsoleRenderer() if style == "text" else structlog.processors.JSONRenderer()
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Lines())),
        cache_logger_on_first_use=False,
    )
