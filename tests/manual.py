"""The manual page and the shells' completions, made from the command line's own definitions."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from edge_agent import __version__
from edge_agent.cli import main

DEPLOY = Path(__file__).parents[1] / "deploy"
NAME = "edge-agent"
FILES = """
.SH FILES
.TP
.I /etc/edge-agent/agent.toml
Configuration. /opt/edge-agent/agent.example.toml says what every key means.
.TP
.I /etc/credstore/edge-agent-master-key
The key that wraps all others. Without it nothing of the state can be read.
.TP
.I /etc/credstore/edge-agent-mqtt-password
The password at the broker, if it wants one.
.TP
.I /var/lib/edge-agent
State: releases and cached windows, sealed; journal, certificates, audit log.
.SH EXIT STATUS
0 on success, 1 if something was refused or failed, 2 on wrong usage, 78 if the configuration or the machine must be
changed by a person first.
.SH SEE ALSO
.BR mosquitto (8),
.BR systemd-creds (1)
"""


def manual() -> str:
    """edge-agent(1), in the language of man(7)."""
    head = [f'.TH EDGE-AGENT 1 "" "edge-agent {__version__}" "User Commands"', ".SH NAME"]
    head += [rf"{NAME} \- {_escaped(main.get_short_help_str(200)).rstrip('.')}", ".SH SYNOPSIS"]
    head += [rf".B {NAME}", r"\fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]...", ".SH DESCRIPTION"]
    root = click.Context(main, info_name=NAME)
    return "\n".join([*head, *_text(main.help or ""), ".SH COMMANDS", *_commands(main, root)]) + FILES


def _commands(group: click.Group, parent: click.Context) -> Iterator[str]:
    for name, command in group.commands.items():
        context = click.Context(command, parent=parent, info_name=name)
        yield ".SS " + _escaped(" ".join((context.command_path, *command.collect_usage_pieces(context))))
        yield from _text(command.help or "")
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record is not None:
                yield from (".TP", rf"\fB{_escaped(record[0])}\fR", _escaped(record[1]))
        if isinstance(command, click.Group):
            yield from _commands(command, context)


def _text(words: str) -> Iterator[str]:
    """Paragraphs; one that begins with ``\\b`` keeps its lines."""
    for number, paragraph in enumerate(cleandoc(words).split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_escaped, paragraph.lstrip("\b\n").splitlines()), ".fi")
        else:
            yield _escaped(paragraph)


def _escaped(words: str) -> str:
    words = words.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in words.splitlines())


def files() -> dict[Path, str]:
    """What ``make readme`` writes and a test compares."""
    found = {DEPLOY / "man" / "edge-agent.1": manual()}
    for shell, name in (
        (BashComplete, "edge-agent.bash"),
        (ZshComplete, "_edge-agent"),
        (FishComplete, "edge-agent.fish"),
    ):
        found[DEPLOY / "completions" / name] = shell(main, {}, NAME, "_EDGE_AGENT_COMPLETE").source()
    return found
