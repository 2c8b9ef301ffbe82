"""The part of the command line about many gateways."""

from __future__ import annotations

import json
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from edge_agent.commands.fleet import Member
    from edge_agent.mqtt_client import BrokerAddress

_BROKER = click.option(
    "--broker", "broker_path", required=True, type=click.Path(path_type=Path),
    help="How an operator reaches the broker: a TOML file with a section [mqtt] like the agent's.",
)  # fmt: skip
_UNDER = click.option(
    "--under", default="edge", show_default=True, help="What stands before the gateways' names in their topics."
)


@click.group()
def fleet() -> None:
    """Many gateways at one broker."""


@fleet.command("status")
@_BROKER
@_UNDER
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what each gateway says of itself.")
def fleet_status(broker_path: Path, under: str, *, as_json: bool) -> None:
    """Show every gateway that the broker knows; exit code 1 if one is away.

    \b
    Example: edge-agent fleet status --broker operator.toml
    """
    from rich.console import Console

    from edge_agent.commands.fleet_ask import survey

    members = survey(_address(broker_path), under)
    if as_json:
        click.echo(json.dumps({name: member.birth for name, member in sorted(members.items())}))
    else:
        Console().print(_states(members))
    sys.exit(0 if members and all(member.online for member in members.values()) else 1)


@fleet.command("unlearn")
@click.argument("classes", nargs=-1, required=True)
@_BROKER
@_UNDER
@click.option("--all", "everybody", is_flag=True, help="Ask all gateways that the broker knows.")
@click.option("--gateways", help="Ask these, by name, comma-separated.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until all have ended, or only ask.")
@click.option("--timeout", "timeout_s", default=1800.0, show_default=True, help="Longest wait, in seconds.")
@click.option("--valid", "valid_s", default=86_400.0, show_default=True, help="Seconds in which a gateway may begin.")
@click.option("--reason", default="", help="Why; stands in each log and in the jobs' states.")
@click.option("--keys", "folder", type=click.Path(path_type=Path, exists=True), help="Public keys, GATEWAY.pem each.")
@click.option("--report", "report_path", type=click.Path(path_type=Path), help="Default: fleet-<id>.json.")
@click.option("--key", "key_path", type=click.Path(path_type=Path), help="Private key (Ed25519, PEM) to sign with.")
@click.option("--key-id", default="operator", show_default=True, help="Its id in the gateways' commands.keys.")
def fleet_unlearn(
    classes: tuple[str, ...], broker_path: Path, under: str, everybody: bool, gateways: str | None, wait: bool,
    timeout_s: float, valid_s: float, reason: str, folder: Path | None, report_path: Path | None, key_path: Path | None,
    key_id: str,
) -> None:  # fmt: skip
    """Make many gateways forget, and collect and verify every certificate.

    A gateway that is away gets the command when it comes back, within --valid. Exit code 0 only if all have succeeded
    and every certificate is signed by its gateway: with a key of --keys, or else with the one that it announces.

    \b
    Example: edge-agent fleet unlearn IF-1 --broker operator.toml --all --keys keys/
    """
    from rich.console import Console
    from rich.live import Live

    from edge_agent.commands.fleet import pinned
    from edge_agent.commands.fleet_ask import Wish, store_report, unlearn
    from edge_agent.commands.unlearn import Signing

    if everybody == (gateways is not None):
        raise click.UsageError("say --all or --gateways")
    names = None if gateways is None else tuple(filter(None, (name.strip() for name in gateways.split(","))))
    if names == ():  # of an unset variable of a shell, say
        raise click.UsageError("--gateways names none")
    address = _address(broker_path)
    signing = Signing.with_key(key_path, key_id, (), valid_s) if key_path else None  # each gets one of its own
    wish = Wish(classes, names, reason, valid_s, signing)
    _report_when_ended()
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:

        def keep(report: Mapping[str, Any]) -> None:
            live.console.print(f"asked as {report['command']['id']}")
            store_report(_path(report, report_path), report)

        tell = lambda seen: live.update(_progress(seen))  # noqa: E731
        report = unlearn(address, under, wish, pinned(folder), timeout_s if wait else 0.0, tell, keep)
        store_report(_path(report, report_path), report)  # first: where the session has gone, showing anything fails
    click.echo(err=True)
    _show(report, report_path, ended=wait)


@fleet.command("collect")
@click.argument("report_path", type=click.Path(path_type=Path, exists=True))
@_BROKER
@_UNDER
@click.option("--timeout", "timeout_s", default=1800.0, show_default=True, help="Longest wait, in seconds.")
@click.option("--keys", "folder", type=click.Path(path_type=Path, exists=True), help="Public keys, GATEWAY.pem each.")
def fleet_collect(report_path: Path, broker_path: Path, under: str, timeout_s: float, folder: Path | None) -> None:
    """Go on collecting what the gateways of an earlier report have answered since, and write the report anew.

    \b
    Example: edge-agent fleet collect fleet-5f0c8a.json --broker operator.toml --keys keys/
    """
    from rich.console import Console
    from rich.live import Live

    from edge_agent.commands.fleet import pinned
    from edge_agent.commands.fleet_ask import collect, read_report, store_report

    before, address = read_report(report_path), _address(broker_path)
    _report_when_ended()
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        tell = lambda seen: live.update(_progress(seen))  # noqa: E731
        report = collect(address, under, before, pinned(folder), timeout_s, tell)
        store_report(report_path, report)
    click.echo(err=True)
    _show(report, report_path, ended=True)


def _report_when_ended() -> None:
    """A session that breaks off, or whoever stops the tool, ends the waiting as Ctrl-C does: with a report."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)


def _path(report: Mapping[str, Any], path: Path | None) -> Path:
    return path or Path(f"{report['command']['id']}.json")


def _show(report: Mapping[str, Any], path: Path | None, *, ended: bool) -> None:
    """Say who has not forgotten; exit code 0 if all have, or if nobody was waited for."""
    id_, classes = report["command"]["id"], ", ".join(report["command"]["classes"])
    path = _path(report, path)
    for name, row in report["gateways"].items():
        if not row["succeeded"] and (ended or not row["asked"]):
            why = row["certificate_problem"] or " ".join(filter(None, (row["code"], row["reason"]))) or _silence(row)
            click.echo(f"{name}: {row['status'] or 'no answer'}: {why}", err=True)
    if not ended:
        click.echo(f"asked {report['asked']} gateways to forget {classes}, as {id_}; go on: fleet collect {path}")
        return
    click.echo(f"{report['succeeded']} of {len(report['gateways'])} have forgotten {classes}; report: {path}")
    sys.exit(0 if report["all_succeeded"] else 1)


def _silence(row: Mapping[str, Any]) -> str:
    if not row["known"]:
        return "the broker has never heard of it; it was not asked"
    if not row["asked"]:
        return "the broker did not take the command for it; it was not asked"
    return "not ended in time" if row["online"] else "it is away; the broker keeps the command for it"


def _address(broker_path: Path) -> BrokerAddress:
    from edge_agent.config import broker_address, read_broker

    return broker_address(read_broker(broker_path), f"edge-agent-fleet-{uuid.uuid4().hex[:8]}")


def _states(members: Mapping[str, Member]) -> Table:
    from rich.markup import escape  # what others say is no markup
    from rich.table import Table

    table = Table("gateway", "state", "version", "release", "masked", "answered", "cached")
    for name, member in sorted(members.items()):
        birth = member.birth
        state = "[green]online[/green]" if member.online else "[red]away[/red]"
        state = "[red]garbled[/red]" if member.garbled else state
        masked = ", ".join(birth.get("masked", ())) or "-"
        release, cached = str(birth.get("release", "-"))[:12], str(sum(birth.get("cached", {}).values()))
        answered = str(birth.get("counters", {}).get("windows_answered", 0))
        told = birth.get("version", "-"), release, masked, answered, cached
        table.add_row(escape(name), state, *map(escape, told))
    return table


def _progress(members: Mapping[str, Member]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("gateway", "state", "status", "phase", "%", "certificate")
    for name, member in sorted(members.items()):
        status = member.status
        proof = "verified" if member.verified else "not believed" if member.problem else "-"
        share = f"{status['progress']:.0%}" if "progress" in status else "-"
        state = "online" if member.online else "away"
        told = name, state, status.get("status", "-"), status.get("phase", "-"), share, proof
        table.add_row(*map(escape, told))
    return table
