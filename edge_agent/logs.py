"""Log output: structlog, one event per line on standard error. Events are API: ``noun.past_participle`` and keys."""

from __future__ import annotations

import sys

import structlog


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
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
