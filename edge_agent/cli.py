"""The command line. One subcommand is one short function; what it does lives in ``edge_agent/commands``."""

from __future__ import annotations

import functools
import json
import re
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edge_agent import __version__
from edge_agent.cli_fleet import fleet
from edge_agent.cli_page import page, report
from edge_agent.cli_trust import CONFIG, OF_MODEL, audit, certificate, releases
from edge_agent.core.errors import EdgeAgentError, Misconfigured

if TYPE_CHECKING:
    from edge_agent.mqtt_client import BrokerAddress

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h: a restart will not help
LONGEST_WAIT_S = 1800.0


class _Group(click.Group):
    """Shows our errors as one line, with the code first."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeAgentError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_CONFIG if isinstance(error, Misconfigured) else 1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge-agent")
def main() -> None:
    """Fault diagnosis on a gateway that can forget a fault class.

    \b
    Train a release, serve it, and make it forget:
      edge-agent train --data rig --out /tmp/rig
      edge-agent run --config agent.toml
      edge-agent unlearn IF-1 --config agent.toml --wait
    """


@dataclass(frozen=True)
class _Place:
    """Where a tool connects, and which gateway it talks to."""

    address: BrokerAddress
    base: str
    config_path: Path | None


_BROKER_OPTIONS = (
    click.option("--config", "config_path", type=click.Path(path_type=Path), help="Broker and base of this config."),
    click.option(
        "--broker", "broker_path", type=click.Path(path_type=Path),
        help="Broker, and who you are there: a TOML file with a section [mqtt] like the agent's.",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="Broker, without a file."),
    click.option("--port", default=1883, show_default=True, help="Its port, without a file."),
    click.option("--base", default="edge/gateway", show_default=True, help="Base topic, without --config."),
)  # fmt: skip


def _refuse_both(one: str, *others: str) -> None:
    """Refuse options that would be passed over silently: a command may then reach another gateway than was meant."""
    context = click.get_current_context()
    flags = {option.name: option.opts[0] for option in context.command.params}
    given = [name for name in (one, *others) if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if one in given and given != [one]:
        raise click.UsageError(
            f"{flags[one]} says it already: leave out {', '.join(flags[name] for name in given[1:])}"
        )


def _broker_options(function: Any) -> Any:
    """Where the broker is, by a configuration, an operator's file, or host and port; handed over as ``place``."""
    for option in reversed(_BROKER_OPTIONS):  # each is listed before those that were applied earlier
        function = option(function)

    @functools.wraps(function)
    def with_place(
        *arguments: Any, config_path: Path | None, broker_path: Path | None, host: str, port: int, base: str,
        **options: Any,
    ) -> Any:  # fmt: skip
        _refuse_both("config_path", "host", "port", "base")
        _refuse_both("broker_path", "host", "port")
        if re.search(r"[+#\0]", base):
            raise click.UsageError(f"base {base!r} holds + or #, which stand for any topic")
        address, base = _address(config_path, broker_path, host, port, base, function.__name__)
        return function(*arguments, place=_Place(address, base, config_path), **options)

    return with_place


@main.command()
@CONFIG
def run(config_path: Path) -> None:
    """Serve diagnoses until SIGTERM; SIGHUP reads the configuration again.

    \b
    Example: edge-agent run --config /etc/edge-agent/agent.toml
    """
    from edge_agent.commands.run import run as serve

    serve(config_path)


@main.command()
@click.option("--data", required=True, help="rig, cwru, dsads, or an .npz of labelled windows.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where the files of cwru or dsads lie.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder for the release.")
@click.option(
    "--architecture", default="resnet18_1d", show_default=True, help="resnet18_1d, vit_1d, swin_1d or one of a plug-in."
)
@click.option(
    "--width", default=16, show_default=True, type=click.IntRange(min=1), help="Size of the network; the paper's is 64."
)
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1), help="Most; it stops early.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights, order, dreams and of the rig.")
@click.option("--threads", default=0, type=click.IntRange(min=0), help="torch threads; 0: all cores.")
def train(
    data: str, folder: Path | None, out: Path, architecture: str, width: int, epochs: int, seed: int, threads: int
) -> None:
    """Train a release: model, weights, dreams and card.

    An .npz needs windows (n, channels, length) float32, labels (n,), classes (k,), groups (n,) and rate_hz, and may
    have channels (c,) and unit. Test accuracy is on other records, subjects, runs or groups, never on random windows.

    \b
    Examples: edge-agent train --data rig --out rig-release
              edge-agent train --data cwru --folder ~/cwru --out cwru-release --width 32
    """
    from edge_agent.commands.train import show_training

    size = {"width": width, "epochs": epochs, "seed": seed, "threads": threads}
    show_training(data, folder, out, architecture=architecture, **size)


@main.command()
@click.argument("release", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
def quantise(release: Path, out: Path) -> None:
    """Write RELEASE into the new folder OUT, with a model in int8 beside the one in float32.

    Its ranges come from the release's dreams, so no data is needed. serving.precision = "int8" chooses it; after a
    class has been forgotten the gateway makes it anew.

    \b
    Example: edge-agent quantise rig-release rig-release-int8
    """
    from edge_agent.commands.quantise import quantise as write
    from edge_agent.schemas.card import INT8, MODEL

    made, verdict = write(release, out)
    sizes = [len(made.read(name)) for name in (INT8, MODEL)]
    click.echo(
        f"release {made.digest[:12]} in {out}: model of {sizes[0] / 1024:.0f} KiB beside {sizes[1] / 1024:.0f} KiB"
    )
    click.echo(f"answers lost, as its margins tell: {verdict.predicted_loss:.2%}; dreams kept: {verdict.agreement:.1%}")


@main.command()
@click.argument("classes", nargs=-1, required=True)
@_broker_options
@OF_MODEL
@click.option("--wait", is_flag=True, help="Wait for the end and show progress.")
@click.option("--timeout", "timeout_s", type=float, help="Longest wait with --wait, in seconds.  [default: 1800]")
@click.option("--reason", default="", help="Why; stands in the log and in the job's state.")
@click.option("--id", "id_", help="Id of the command; the same id runs once. Default: a new one.")
@click.option("--key", "key_path", type=click.Path(path_type=Path), help="Private key (Ed25519, PEM) to sign with.")
@click.option("--key-id", default="operator", show_default=True, help="Its id in the gateway's commands.keys.")
@click.option("--audience", multiple=True, help="Gateways it is signed for. Default: gateway.name of --config.")
@click.option("--valid", "valid_s", default=600.0, show_default=True, help="Seconds in which it may begin.")
def unlearn(
    classes: tuple[str, ...], place: _Place, model: str, wait: bool, timeout_s: float | None, reason: str,
    id_: str | None, key_path: Path | None, key_id: str, audience: tuple[str, ...], valid_s: float,
) -> None:  # fmt: skip
    """Make a gateway forget one or more classes.

    Exit code 0 if it was accepted (with --wait: if it succeeded), 1 if it was refused or failed.

    \b
    Examples: edge-agent unlearn IF-1 --config agent.toml --wait
              edge-agent unlearn IF-1 --config agent.toml --key operator.pem
    """
    from edge_agent.commands.show import show_unlearn
    from edge_agent.commands.unlearn import Signing
    from edge_agent.config import read_config
    from edge_agent.settings import MODELS, OWN_MODEL

    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout is how long --wait waits")
    limit_s = (LONGEST_WAIT_S if timeout_s is None else timeout_s) if wait else None
    below = "" if model == OWN_MODEL else f"/{MODELS}/{model}"
    if key_path is not None and not audience:
        if place.config_path is None:
            raise click.UsageError("--key needs --audience, or --config, which names the gateway")
        audience = (read_config(place.config_path).gateway.name + below,)
    signing = Signing.with_key(key_path, key_id, audience, valid_s) if key_path else None
    sys.exit(show_unlearn(place.address, place.base + below, classes, reason, id_, signing, valid_s, limit_s))


@main.command()
@click.option("--source", default="rig", show_default=True, help="rig, cwru, dsads, or an .npz of labelled windows.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), help="Where the files of cwru or dsads lie.")
@click.option("--class", "only", help="Windows of this class only.")
@click.option("--rate", default=20.0, show_default=True, type=click.FloatRange(min=0.01), help="Windows per second.")
@click.option("--count", type=click.IntRange(min=1), help="How many; default: until interrupted.")
@click.option("--asset", default="simulated", show_default=True, help="Name of the asset.")
@click.option("--labels/--no-labels", default=True, show_default=True, help="Whether windows carry their class.")
@click.option("--seed", default=0, show_default=True, help="Seed of runs and order.")
@_broker_options
def simulate(
    source: str, folder: Path | None, only: str | None, rate: float, count: int | None, asset: str, labels: bool,
    seed: int, place: _Place,
) -> None:  # fmt: skip
    """Publish windows of the simulated rig or of a data set, and count the diagnoses that come back.

    Exit code 1 if not every one of --count was answered, unless it is interrupted.

    \b
    Example: edge-agent simulate --source rig --rate 50 --config agent.toml
    """
    from edge_agent.commands.show import show_simulation
    from edge_agent.schemas.topics import ASSET

    if not ASSET.fullmatch(asset):
        raise click.UsageError(f"asset {asset!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
    chosen = asset, source, folder, only
    whole = show_simulation(place.address, place.base, *chosen, rate=rate, count=count, labels=labels, seed=seed)
    sys.exit(0 if whole else 1)


@main.command()
@CONFIG
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration instead, for editors.")
def check(config_path: Path, *, schema: bool) -> None:
    """Look at config, access, disk, certificates, clock, release and broker; exit code 1 if something is wrong.

    \b
    Example: edge-agent check --config agent.toml
    """
    from edge_agent.commands.check import check as findings
    from edge_agent.settings import Config

    if schema:
        click.echo(json.dumps(Config.model_json_schema(), indent=2))
        return
    failed = False
    for finding in findings(config_path):
        click.echo(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.subject:8s} {finding.words}")
        if not finding.passed:
            failed = True
            click.echo(f"      {'':8s} remedy: {finding.remedy}")
    sys.exit(1 if failed else 0)


@main.command()
@CONFIG
@click.option("--out", type=click.Path(path_type=Path), default="edge-agent-diag.tar.gz", show_default=True)
@click.option("--log", type=click.Path(path_type=Path, exists=True), help="Log file. Default: the service's journal.")
def diag(config_path: Path, out: Path, log: Path | None) -> None:
    """Write an archive for whoever helps: versions, findings, cards, journal, log, disk; no secret, no window.

    \b
    Example: edge-agent diag --config /etc/edge-agent/agent.toml --out /tmp/press-7.tar.gz
    """
    from edge_agent.commands.diag import diagnose

    names = diagnose(config_path, out, log)
    click.echo(f"wrote {out}: {', '.join(names)}")


@main.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Show the whole story on this machine: broker, agent, rig, one class forgotten.

    \b
    Example: edge-agent demo
    """
    from edge_agent.commands.demo import main as show

    sys.exit(show(list(arguments)))


def _address(
    config_path: Path | None, broker_path: Path | None, host: str, port: int, base: str, tool: str
) -> tuple[BrokerAddress, str]:
    from edge_agent.config import broker_address, read_broker, read_config
    from edge_agent.mqtt_client import BrokerAddress

    client_id = f"edge-agent-{tool}-{uuid.uuid4().hex[:8]}"
    config = read_config(config_path) if config_path else None
    base = config.base if config else base
    if broker_path is not None:
        return broker_address(read_broker(broker_path), client_id), base
    return broker_address(config.mqtt, client_id) if config else BrokerAddress(host, port, client_id), base


for command in (page, releases, certificate, audit, report, fleet):
    main.add_command(command)
